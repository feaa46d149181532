package endpoint_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/endpoint"
	"disksync/internal/testkit"
)

// withChild has the endpoint look for what is free by another program.
func (w *world) withChild(command ...string) {
	w.Helper()
	w.close()
	w.reader = command
	w.open()
}

// failing is a child that fails as it is told. Its arguments tell whose it is.
func (w *world) failing(how string) []string {
	w.Helper()
	return []string{shipped.Path(w, "testchild"), "testchild", w.dir, how}
}

// TestBackupsWithoutTheirChild: whatever happens to who looks for what is free, the backup is made, with all blocks, and says why; the next
// one is as ever.
func TestBackupsWithoutTheirChild(t *testing.T) {
	t.Parallel()
	g := ext4Guest(newWorld(t), 16)
	honest := g.reader
	g.deployed()
	r := rand.New(rand.NewPCG(1, 2))
	for how, says := range map[string]string{
		"panic": "the disk is too odd", "kill": "signal: killed", "nonsense": "wrong answer", "false": "wrong answer", "bomb": "out of memory",
	} {
		g.toVM(func() {
			g.store("big", random(r, 2<<20))
			g.remove("big")
		})
		g.withChild(g.failing(how)...)
		rc := g.backUp("win7")
		if d := rc.Point.Disks[0]; d.Freed != 0 || len(d.Kept) != 1 || !strings.HasPrefix(d.Kept[0], "all volumes: ") || !strings.Contains(d.Kept[0], says) {
			t.Errorf("%s: %+v", how, d)
		}
		if zeros := g.restored(rc.Point.Point, g.content(), g.files); zeros > 0 {
			t.Errorf("%s: %d bytes are zeros though nobody knows what is free", how, zeros)
		}
	}
	g.withChild(honest...)
	g.toVM(func() {
		g.store("big", random(r, 2<<20))
		g.remove("big")
	})
	rc := g.backUp("win7")
	if d := rc.Point.Disks[0]; d.Freed < 1<<20 || len(d.Kept) > 0 {
		t.Errorf("%+v", d)
	}
	g.restored(rc.Point.Point, g.content(), g.files)
}

// TestLyingChild: a child that was taken over can leave out of the guest's own backup what is in use. The VM keeps it, and the next backup of
// something written, when it is told the truth, has it again.
func TestLyingChild(t *testing.T) {
	t.Parallel()
	g := ext4Guest(newWorld(t), 16)
	honest := g.reader
	g.deployed()
	r := rand.New(rand.NewPCG(1, 2))
	g.toVM(func() { g.store("file", random(r, 3<<20)) })
	g.withChild(g.failing("lie")...)
	if d := g.backUp("win7").Point.Disks[0]; d.Freed < 3<<20 {
		t.Errorf("the lie was not believed: this is no test: %+v", d)
	}
	g.holds("win7", g.content())
	g.withChild(honest...)
	g.toVM(func() { g.store("more", random(r, 5000)) })
	rc := g.backUp("win7")
	if d := rc.Point.Disks[0]; d.Bytes < 3<<20 {
		t.Errorf("%+v", d)
	}
	g.restored(rc.Point.Point, g.content(), g.files)
	g.holds("win7", g.content())
}

// childRuns reports whether a failing child of the endpoint is there.
func (w *world) childRuns() bool {
	w.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		w.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f) // it may have ended
		return err == nil && bytes.HasPrefix(b, []byte("testchild\x00"+w.dir+"\x00"))
	})
}

// TestBackupIsStoppedWhileItsChildHangs: who looks for what is free ends with the backup that wants to know.
func TestBackupIsStoppedWhileItsChildHangs(t *testing.T) {
	t.Parallel()
	g := ext4Guest(newWorld(t), 16)
	honest := g.reader
	g.deployed()
	r := rand.New(rand.NewPCG(1, 2))
	g.toVM(func() { g.store("file", random(r, 1<<20)) })
	g.withChild(g.failing("hang")...)
	o := g.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	testkit.Until(t, "the child runs", g.childRuns)
	o.Stop()
	testkit.Until(t, "the child is gone", func() bool { return !g.childRuns() })
	g.withChild(honest...)
	rc := g.backUp("win7")
	if d := rc.Point.Disks[0]; len(d.Kept) > 0 {
		t.Errorf("%+v", d)
	}
	g.restored(rc.Point.Point, g.content(), g.files)
}
