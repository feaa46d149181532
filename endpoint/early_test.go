package endpoint_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
)

// incomplete starts the download of a VM that is made at once, and returns when it is there, with its operation held up.
func (w *world) incomplete(g *gate) *endpoint.Operation {
	w.Helper()
	op, err := w.e.Start(endpoint.Request{Kind: endpoint.Download, Image: "win7", Early: true})
	if err != nil {
		w.Fatal(err)
	}
	testkit.Until(w, "the VM is there and its layer is held up", func() bool {
		vms, err := w.e.VMs()
		return err == nil && len(vms) == 1 && vms[0].Downloading && g.layers() > 0
	})
	return op
}

func (w *world) leaf() *endpoint.EarlyLeaf {
	w.Helper()
	l, err := w.e.OpenEarly("win7", image.System)
	if err != nil || l == nil {
		w.Fatalf("open the leaf: %v, %v", l, err)
	}
	return l
}

// TestEarlyVM: a VM is there as soon as its download is planned; what is read of it comes at once, what is written to it is there after a
// restart, and when all has come it is as any other.
func TestEarlyVM(t *testing.T) {
	t.Parallel()
	want := disk(seeds(8)...)
	w := ready(t, want)
	g := w.gate(0)
	op := w.incomplete(g)
	for what, err := range map[string]error{
		"rolled back": func() error { _, err := w.e.RollBack("win7"); return err }(),
		"exported": func() error {
			_, err := w.e.Export(t.Context(), "win7", image.System, nil, deploy.NewTally())
			return err
		}(),
	} {
		if err == nil {
			t.Errorf("it was %s", what)
		}
	}
	op.Pause()
	if err := op.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	// With the operation paused, what is read still comes.
	g.lift()
	l := w.leaf()
	p := make([]byte, 4096)
	for _, at := range []int64{5 * block, 2 * block} {
		if _, err := l.Disk.ReadAt(p, at); err != nil || !bytes.Equal(p, want[at:][:4096]) {
			t.Fatalf("at %d: %v", at, err)
		}
	}
	mine := []byte(strings.Repeat("what the user wrote ", 400))[:4096]
	if _, err := l.Disk.WriteAt(mine, 3*block+8192); err != nil {
		t.Fatal(err)
	}
	copy(want[3*block+8192:], mine)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Leave()
	w.restart()
	l = w.leaf()
	if _, err := l.Disk.ReadAt(p, 3*block+8192); err != nil || !bytes.Equal(p, mine) {
		t.Errorf("what was written is not there after a restart: %v", err)
	}
	swapped := make(chan struct{})
	if err := l.WhenWhole(func() error { close(swapped); return nil }); err != nil {
		t.Fatal(err)
	}
	again, err := w.e.Start(endpoint.Request{Kind: endpoint.Download, Image: "win7", Early: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := again.Status(); s.State != endpoint.Finished {
		t.Fatalf("%s: %v", s.State, s.Problem)
	}
	<-swapped
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Leave()
	vms, err := w.e.VMs()
	if err != nil || len(vms) != 1 || vms[0].Downloading || vms[0].Previous != 0 {
		t.Fatalf("%+v, %v", vms, err)
	}
	file := filepath.Join(w.dir, "out.raw")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(int64(len(want))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.e.Export(t.Context(), "win7", image.System, out, deploy.NewTally()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := out.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("in the end it is another disk: %v", err)
	}
}

// TestEarlyOffline: a VM that is not all here, on a machine without a line, says what it waits for.
func TestEarlyOffline(t *testing.T) {
	t.Parallel()
	want := disk(seeds(8)...)
	w := ready(t, want)
	g := w.gate(0)
	op := w.incomplete(g)
	op.Stop()
	if err := op.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.lift()
	w.front.CloseClientConnections()
	w.front.Close()
	l := w.leaf()
	defer l.Leave()
	read := make(chan error, 1)
	go func() {
		_, err := l.Disk.ReadAt(make([]byte, 512), 0)
		read <- err
	}()
	testkit.Until(t, "it says what it waits for", func() bool {
		vms, err := w.e.VMs()
		return err == nil && vms[0].Waits != ""
	})
	select {
	case err := <-read:
		t.Errorf("a read without a source ended: %v", err)
	default:
	}
	l.Leave()
	if err := <-read; err == nil {
		t.Error("a read without a source gave something")
	}
	w.e.Close()
	w.e = nil
}
