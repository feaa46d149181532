package cache_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"disksync/cache"
)

// yanked is a file of a medium: from some read on, counted over all of its files, reads fail as those of a bad sector do. What happens in
// the machine then is told to it.
type yanked struct {
	io.ReaderAt
	reads  *int
	happen func()
}

func (y yanked) ReadAt(p []byte, off int64) (int, error) {
	if *y.reads++; *y.reads >= 3 {
		y.happen()
		return 0, &os.PathError{Op: "read", Path: "x", Err: syscall.EIO}
	}
	return y.ReaderAt.ReadAt(p, off)
}

// TestPulledOut: a medium that the kernel forgets when its reads begin to fail has gone, and none of its blocks is bad; those of one that
// stays are.
func TestPulledOut(t *testing.T) {
	g := get(t)
	w := g.wanted()
	for _, c := range []struct {
		name   string
		number string // of the medium in the drive after the failure; empty: the drive has gone
		gone   bool
	}{
		{"pulled out", "", true}, {"another one in its place", "9", true}, {"a bad sector", "8", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.device("8:16", pci+"usb1/block/sdb", map[string]string{"removable": "1", "diskseq": "8"})
			dir := t.TempDir()
			write(t, dir, "1", g.full.file)
			write(t, dir, "2", g.diff.file)
			inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir, Drive: "sdb", ID: "8:1024:12AB-34CD"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(inv.Close)
			inv.FoundBy(m.finder())
			s := inv.Source(w)
			s.ReadAtLeast(1)
			reads := 0
			done := make(chan struct{}, len(w.Blocks))
			happen := func() {
				go func() { // a moment later, as the kernel does
					<-time.After(30 * time.Millisecond)
					switch c.number {
					case "":
						_ = os.Remove(filepath.Join(m.sys, "class/block/sdb")) // it may be gone
					case "9":
						write(t, m.sys, "class/block/sdb/diskseq", []byte(c.number+"\n"))
					}
					done <- struct{}{}
				}()
			}
			s.Wrap(func(r io.ReaderAt) io.ReaderAt { return yanked{r, &reads, happen} })
			h := fetch(t, s, w)
			for range reads - 2 {
				<-done
			}
			if errors.Is(h.err, cache.ErrGone) != c.gone || !c.gone && h.err != nil || len(h.good) != 2 || (len(h.bad) == 0) != c.gone {
				t.Errorf("%d good, %d bad: %v", len(h.good), len(h.bad), h.err)
			}
		})
	}
}
