package endpoint_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/guest"
	"disksync/publish"
)

// TestGuestEarly boots a real guest from the Synchronizer over a limited line before its download is done, and compares with downloading all
// first. How long each takes is told, not tested: that goes by what else the machine does. What the guest writes meanwhile stays.
func TestGuestEarly(t *testing.T) {
	t.Parallel()
	const limit = "4M" // bytes a second
	w := newWorld(t)
	var mu sync.Mutex
	var order []string
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if s := r.Header.Get("Range"); strings.Contains(r.URL.Path, "/layers/") && s != "" {
			mu.Lock()
			order = append(order, s)
			mu.Unlock()
		}
		next.ServeHTTP(rw, r)
	})
	g := &guests{w}
	// Much of the disk is nothing that a guest needs to start.
	user := filepath.Join(t.TempDir(), "user")
	noisy := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{5}).Read(noisy)
	w.write(user, noisy)
	disks := []publish.Disk{
		{Role: image.System, Path: guest.Image(t), Format: publish.Raw}, {Role: image.User, Path: user, Format: publish.Raw},
	}
	m := image.Machine{Memory: 192, CPUs: 1, Network: image.NoNetwork}
	g.publishGuest(image.Static, &m, disks...)
	g.lab.Assign(t, "guest", "alice", 0)
	g.logIn()
	t.Cleanup(func() {
		if g.e != nil {
			_ = g.e.StopVM(t.Context(), "vm", true)
		}
	})
	start := time.Now()
	g.finish(endpoint.Request{Kind: endpoint.Download, Image: "guest", VM: "vm", Limit: limit})
	got := time.Since(start)
	c := g.boot(endpoint.RunOptions{})
	all := time.Since(start)
	trace, err := g.e.BootTrace("vm")
	if err != nil || len(trace[image.System]) == 0 {
		t.Fatalf("boot trace %v, %v", trace, err)
	}
	g.off(c)
	t.Logf("download all, then boot: %v, of which the download %v; the guest reads %d blocks", all, got, len(trace[image.System]))
	if os.Getenv("DISKSYNC_SOAK") == "1" {
		g.early(limit, &order, &mu)
	}
	o := publish.Options{Image: "guest", Spool: t.TempDir(), Level: 1, Disks: disks[:1], Boot: trace}
	if _, err := publish.Run(t.Context(), g.lab.Admin, o); err != nil {
		t.Fatal(err)
	}
	t.Log("with a boot set:")
	g.early(limit, &order, &mu)
}

// early downloads the guest anew, and starts it before it is all here.
func (g *guests) early(limit string, order *[]string, mu *sync.Mutex) {
	g.Helper()
	if err := g.e.Remove("vm"); err != nil {
		g.Fatal(err)
	}
	mu.Lock()
	*order = nil
	mu.Unlock()
	start := time.Now()
	op := g.start(endpoint.Request{Kind: endpoint.Download, Image: "guest", VM: "vm", Limit: limit, Early: true})
	testkit.Until(g, "the VM is there", func() bool {
		vms, err := g.e.VMs()
		return err == nil && len(vms) == 1
	})
	info, err := g.e.RunVM(g.Context(), "vm", endpoint.RunOptions{})
	if err != nil || !info.Downloading {
		g.Fatalf("it is started before it is all here: %+v, %v", info, err)
	}
	c := g.console()
	c.Ready()
	took := time.Since(start)
	downloading := g.vm().Downloading
	mu.Lock()
	first := fmt.Sprint((*order)[:min(len(*order), 40)])
	n := len(*order)
	mu.Unlock()
	g.Logf("the console after %v, still downloading: %v; %d requests, the first: %.1500s", took, downloading, n, first)
	c.WriteFiles("/mnt/early", 1, 5, 100000)
	if err := op.Wait(g.Context()); err != nil {
		g.Fatal(err)
	}
	if s := op.Status(); s.Outcome() != nil || g.vm().Downloading {
		g.Fatalf("the download ended with %v", s.Outcome())
	}
	g.Logf("all was here after %v", time.Since(start))
	c.CheckFiles("/mnt/early", 1, 5, 100000)
	g.off(c)
	guest.CheckRoot(g, g.raw())
}
