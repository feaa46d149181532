package cache_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
)

// TestTurns: a drive has one reader at a time, those who wait come in their order, and who gives up waiting holds nobody up.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drives cache.Drives
		stick := cache.Medium{Drive: "sdb", Device: "/dev/sdb1"}
		turn := drives.Turn(stick)
		nowhere := drives.Turn(cache.Medium{})
		if turn != drives.Turn(cache.Medium{Drive: "sdb", Device: "/dev/sdb2"}) || turn == drives.Turn(cache.Medium{Drive: "sdc"}) ||
			nowhere == drives.Turn(cache.Medium{}) {
			t.Fatal("a drive is taken for another")
		}
		if err := turn.Take(t.Context()); err != nil {
			t.Fatal(err)
		}
		var order []int
		var wg sync.WaitGroup
		impatient := errors.New("impatient")
		for i := range 6 {
			ctx, cancel := context.WithCancelCause(t.Context())
			wg.Go(func() {
				if err := turn.Take(ctx); err != nil {
					if i != 2 || !errors.Is(err, impatient) {
						t.Errorf("%d: %v", i, err)
					}
					return
				}
				order = append(order, i)
				turn.Pass()
			})
			synctest.Wait()
			if i == 2 {
				cancel(impatient)
				synctest.Wait()
			}
			defer cancel(nil)
		}
		turn.Pass()
		wg.Wait()
		if !slices.Equal(order, []int{0, 1, 3, 4, 5}) {
			t.Errorf("they came in the order %v", order)
		}
		if err := turn.Take(t.Context()); err != nil {
			t.Error("it is not free at the end:", err)
		}
	})
}

// slow is a file of a drive that takes its time, and notices a second reader.
type slow struct {
	io.ReaderAt
	drive *drive
	who   int
}

type drive struct {
	mu    sync.Mutex
	busy  int
	most  int
	turns []int // who read, without repetitions
}

func (s slow) ReadAt(p []byte, off int64) (int, error) {
	d := s.drive
	d.mu.Lock()
	d.busy++
	d.most = max(d.most, d.busy)
	if n := len(d.turns); n == 0 || d.turns[n-1] != s.who {
		d.turns = append(d.turns, s.who)
	}
	d.mu.Unlock()
	<-time.After(time.Second)
	d.mu.Lock()
	d.busy--
	d.mu.Unlock()
	return s.ReaderAt.ReadAt(p, off)
}

// TestReadersOfADrive: two transfers that read from one drive take turns, each long; those of two drives read at the same time.
func TestReadersOfADrive(t *testing.T) {
	d := disk(11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22)
	p, err := pack(image.State{}, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "layer", p.file)
			w := cache.Wanted{Blocks: blocks(p.state), Layers: []*layer.Index{p.Index}}
			var drives cache.Drives
			one := &drive{}
			var wg sync.WaitGroup
			for who := range 2 {
				inv := scan(t, dir)
				m := cache.Medium{Drive: "sdb"}
				if !same && who == 1 {
					m.Drive = "sdc"
				}
				inv.TakeTurns(drives.Turn(m))
				s := inv.Source(w)
				s.ReadAtLeast(1)
				s.Wrap(func(r io.ReaderAt) io.ReaderAt { return slow{r, one, who} })
				wg.Go(func() {
					if h := fetch(t, s, w); h.err != nil || len(h.good) != len(w.Blocks) {
						t.Errorf("%d good, %v", len(h.good), h.err)
					}
				})
			}
			wg.Wait()
			switch {
			case !same && one.most != 2:
				t.Error("two drives were not read at the same time")
			case same && one.most != 1:
				t.Error("a drive had two readers")
			case same && (len(one.turns) < 4 || len(one.turns) > 8):
				t.Errorf("13 reads each of a second, in turns of five: %v", one.turns)
			}
		})
	}
}

// sectors is a file with a bad place.
type sectors struct {
	io.ReaderAt
	reads *[]int
	bad   int64
	err   error
}

func (s sectors) ReadAt(p []byte, off int64) (int, error) {
	*s.reads = append(*s.reads, len(p))
	if s.err != nil && off <= s.bad && s.bad < off+int64(len(p)) {
		n, _ := s.ReaderAt.ReadAt(p[:s.bad-off], off)
		return n, s.err
	}
	return s.ReaderAt.ReadAt(p, off)
}

// TestLongReads: small frames that lie side by side are read at once, and a bad sector among them costs its own block only.
func TestLongReads(t *testing.T) {
	d := disk(11, 12, 13, 14, 15, 16, 17, 18)
	p, err := pack(image.State{}, d)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "layer", p.file)
	w := cache.Wanted{Blocks: blocks(p.state), Layers: []*layer.Index{p.Index}}
	all := len(w.Blocks)
	bad := p.Frame(4).Offset + 5
	for _, c := range []struct {
		name             string
		err              error
		reads, good, bad int
	}{
		{"good", nil, 1, all, 0},
		{"a bad sector", syscall.EIO, 1 + all - 4, all - 1, 1},
		{"pulled out", syscall.ENODEV, 1, 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scan(t, dir).Source(w)
			var reads []int
			s.Wrap(func(r io.ReaderAt) io.ReaderAt { return sectors{r, &reads, bad, c.err} })
			h := fetch(t, s, w)
			if len(h.good) != c.good || len(h.bad) != c.bad || errors.Is(h.err, cache.ErrGone) != (c.name == "pulled out") {
				t.Errorf("%d good, %d bad, %v", len(h.good), len(h.bad), h.err)
			}
			if len(reads) != c.reads {
				t.Errorf("reads of %v bytes", reads)
			}
		})
	}
	// A gap that is too wide is not read along.
	small := cache.Wanted{Blocks: map[image.Digest]bool{p.Frame(0).Digest: true, p.Frame(7).Digest: true}, Layers: w.Layers}
	s := scan(t, dir).Source(small)
	var reads []int
	s.Wrap(func(r io.ReaderAt) io.ReaderAt { return sectors{r, &reads, 0, nil} })
	if h := fetch(t, s, small); h.err != nil || len(h.good) != 2 || len(reads) == 0 || len(reads) > 2 {
		t.Errorf("%v, %d good, reads %v", h.err, len(h.good), reads)
	}
}
