package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/guest"
	"disksync/internal/testkit/lab"
	"disksync/publish"
)

// hostRig is the service as it is shipped, on a bus, with a real guest as the VM "vm".
type hostRig struct {
	*testing.T
	bus     *testkit.Bus
	dir     string
	service *testkit.Program
	client  *dbusapi.Client
}

func newHostRig(t *testing.T) *hostRig {
	t.Helper()
	h := &hostRig{T: t, bus: testkit.StartBus(t, testkit.SessionBus), dir: filepath.Join(t.TempDir(), "state")}
	l := lab.Start(t)
	l.User(t, "alice")
	o := publish.Options{
		Image: "guest", Spool: t.TempDir(), Level: 1, Machine: &image.Machine{Memory: 192, CPUs: 1},
		Disks: []publish.Disk{{Role: image.System, Path: guest.Image(t), Format: publish.Raw}},
	}
	if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
		t.Fatal(err)
	}
	l.Assign(t, "guest", "alice", 0)
	name, value, _ := strings.Cut(h.bus.Env()[0], "=")
	t.Setenv(name, value)
	h.start()
	var err error
	if h.client, err = dbusapi.Dial(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.client.StopVM(context.Background(), "vm", true) // a guest outlives its service, and so a test that failed
		_ = h.client.Close()
	})
	if _, err := h.client.Register(t.Context(), l.URL, l.Fingerprint, false); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Login(t.Context(), "alice", lab.Password); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Run(t.Context(), endpoint.Request{Kind: endpoint.Download, VM: "vm"}, func(endpoint.Status) {}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hostRig) start() {
	h.Helper()
	cmd := exec.Command(shipped.Path(h, "disksyncmgr"), "serve", "--session", "--state", h.dir)
	cmd.Env = append(os.Environ(), h.bus.Env()...)
	h.service = testkit.StartProgram(h, cmd)
}

func (h *hostRig) do(args ...string) string {
	h.Helper()
	out, err := exec.Command(shipped.Path(h, "disksyncmgr"), append([]string{"--session"}, args...)...).CombinedOutput()
	if err != nil {
		h.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func (h *hostRig) console() *guest.Console {
	h.Helper()
	mine, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer theirs.Close()
		_ = h.client.Console(ctx, "vm", theirs)
	}()
	h.Cleanup(func() { cancel(); mine.Close() })
	return guest.NewConsole(h, mine)
}

// TestKillWhileItRuns kills the service again and again while a guest writes. The guest waits for the next one and goes on; in the end
// all files are as they were written, and the file system is clean.
func TestKillWhileItRuns(t *testing.T) {
	h := newHostRig(t)
	if out := h.do("run", "vm", "--detach"); !strings.HasPrefix(out, "VM vm runs, process ") {
		t.Errorf("run said %q", out)
	}
	c := h.console()
	c.Ready()
	trace, err := image.ReadBootTrace(strings.NewReader(h.do("boot-trace", "vm")))
	if b := trace[image.System]; err != nil || len(b) == 0 || b[0] != 0 {
		t.Errorf("to start, the guest read the blocks %v, %v; the first of a disk is read first", b, err)
	}
	const files, size = 10, 300000 // more at once than a block of the leaf, so that it grows
	for i := range 2 {
		before := h.written()
		c.SendWriteFiles("/mnt/data/f", i*files+1, (i+1)*files, size)
		testkit.Until(t, "the guest writes", func() bool { return h.written() > before })
		if !h.service.Kill() {
			t.Fatal("it was not the test that ended the service")
		}
		h.start()
		if out := h.do("vms"); !strings.Contains(out, "running") {
			t.Errorf("after a kill: %s", out)
		}
		c = h.console()
		c.Settle()
	}
	c.CheckFiles("/mnt/data/f", 1, 2*files, size)
	c.WriteFiles("/mnt/data/g", 1, 5, size)
	h.do("stop", "--force", "vm")
	if out := h.do("vms"); !strings.Contains(out, "stopped") {
		t.Errorf("after stop: %s", out)
	}
	raw := filepath.Join(t.TempDir(), "export.raw")
	h.do("export", "vm", "--to", raw)
	guest.CheckRoot(t, raw)
	h.do("run", "vm", "--detach")
	c = h.console()
	c.Ready()
	c.CheckFiles("/mnt/data/f", 1, 2*files, size)
	c.CheckFiles("/mnt/data/g", 1, 5, size)
	h.do("stop", "vm")
	if out := h.do("vms"); !strings.Contains(out, "stopped") {
		t.Errorf("after the guest shut down: %s", out)
	}
	h.do("export", "vm", "--to", raw, "--force")
	guest.CheckClean(t, guest.Root(raw))
}

// written returns the size of the VM's leaf, in bytes.
func (h *hostRig) written() int64 {
	vms, err := h.client.VMs(h.Context())
	if err != nil || len(vms) != 1 {
		return 0
	}
	st, err := os.Stat(vms[0].Disks[0].Leaf)
	if err != nil {
		st, err = os.Stat(filepath.Join(h.dir, vms[0].Disks[0].Leaf))
	}
	if err != nil {
		return 0
	}
	return st.Size()
}
