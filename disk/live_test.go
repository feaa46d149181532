package disk_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"disksync/disk"
	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// frozen makes a new leaf on top of a disk.
func frozen(t testing.TB, dir string, n int, now *vhd.Disk) (*vhd.Disk, error) {
	t.Helper()
	name := filepath.Join(dir, "leaf"+string(rune('a'+n))+".vhd")
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { f.Close() })
	err = vhd.Snapshot(f, now.Leaf(), "below.vhd", vhd.CreateOptions{Size: now.Size(), UUID: image.RandomUUID([16]byte{1, 15: byte(n)})})
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The disk below is not written any more.
	return vhd.OpenDisk(f, st.Size(), []*vhd.Image{vhd.Content(now.Leaf().UUID(), now, now.Size())})
}

func openLive(t testing.TB, name string) (*disk.Live, *vhdfile.Disk) {
	t.Helper()
	d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return disk.NewLive(d.Disk), d
}

// twoLive opens two chains of 4 MiB, in folders of their own.
func twoLive(t testing.TB, dir string) []*disk.Live {
	t.Helper()
	var disks []*disk.Live
	for _, d := range []string{"a", "b"} {
		sub := filepath.Join(dir, d)
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		name, _ := newChain(t, sub, 4*mib, 2)
		l, _ := openLive(t, name)
		disks = append(disks, l)
	}
	return disks
}

// TestSwapUnderWrites freezes the leaf again and again while it is written and read from several sides: everything reads back, and
// what was frozen never changes again.
func TestSwapUnderWrites(t *testing.T) {
	t.Parallel()
	const sides, size, swaps = 3, 16 * mib, 8
	dir := t.TempDir()
	name, content := newChain(t, dir, size, 2)
	l, _ := openLive(t, name)
	var wg sync.WaitGroup
	var stop atomic.Bool
	var writes atomic.Int64
	for side := range int64(sides) {
		wg.Go(func() {
			for i := int64(0); !stop.Load(); i++ {
				off := (i*37%(size/mib/4)*4+side)*mib + i*13%200*512
				p := noise(8192, byte(i))
				copy(content[off:], p)
				got := make([]byte, len(p))
				_, err := l.WriteAt(p, off)
				if _, rerr := l.ReadAt(got, off); err != nil || rerr != nil || !bytes.Equal(got, p) {
					t.Errorf("side %d reads back something else: %v, %v", side, err, rerr)
					return
				}
				writes.Add(1)
			}
		})
	}
	type state struct {
		d       *vhd.Disk
		content []byte
	}
	var states []state
	for n := range swaps {
		for begun := writes.Load(); writes.Load() < begun+20 && !t.Failed(); {
			if err := l.Flush(); err != nil {
				t.Error(err)
			}
		}
		err := l.Swap(func(now *vhd.Disk) (*vhd.Disk, error) {
			states = append(states, state{now, readAll(t, now, size)})
			return frozen(t, dir, n, now)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	for i, s := range states {
		if !bytes.Equal(readAll(t, s.d, size), s.content) {
			t.Errorf("frozen disk %d has changed", i)
		}
	}
	if !bytes.Equal(readAll(t, l, size), content) {
		t.Error("content differs")
	}
}

// TestSwapThatFails: the disks go on as they were, all of them.
func TestSwapThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disks := twoLive(t, dir)
	broken := errors.New("no room for a new leaf")
	err := disk.SwapAll(disks, func(now []*vhd.Disk) ([]*vhd.Disk, error) {
		if _, err := frozen(t, dir, 0, now[0]); err != nil {
			t.Error(err)
		}
		return nil, broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	for _, l := range disks {
		p, got := noise(4096, 5), make([]byte, 4096)
		if _, err := l.WriteAt(p, mib); err != nil {
			t.Error(err)
		}
		if _, err := l.ReadAt(got, mib); err != nil || !bytes.Equal(got, p) {
			t.Errorf("reads something else: %v", err)
		}
	}
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	name, _ := newChain(t, small, 2*mib, 2)
	_, other := openLive(t, name)
	if err := disks[0].Swap(func(*vhd.Disk) (*vhd.Disk, error) { return other.Disk, nil }); err == nil || disks[0].Size() != 4*mib {
		t.Errorf("a disk of another size took its place: %v", err)
	}
}

// TestGroupAtOneInstant writes numbers to two disks in turn, and freezes both: the second one never has more than the first.
func TestGroupAtOneInstant(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disks := twoLive(t, dir)
	sector := func(n int) []byte { return bytes.Repeat([]byte{byte(n >> 8), byte(n)}, 256) }
	number := func(r io.ReaderAt) int {
		b := make([]byte, 2)
		if _, err := r.ReadAt(b, mib); err != nil {
			t.Error(err)
		}
		return int(b[0])<<8 | int(b[1])
	}
	for _, l := range disks {
		if _, err := l.WriteAt(sector(0), mib); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	var turns atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; !stop.Load(); n++ {
			for _, l := range disks {
				if _, err := l.WriteAt(sector(n%60000), mib); err != nil {
					t.Error(err)
				}
			}
			turns.Add(1)
		}
	})
	moved := 0
	for i := range 12 {
		for begun := turns.Load(); turns.Load() < begun+3; {
			if err := disks[0].Flush(); err != nil {
				t.Fatal(err)
			}
		}
		err := disk.SwapAll(disks, func(now []*vhd.Disk) ([]*vhd.Disk, error) {
			a, b := number(now[0]), number(now[1])
			if a != b && a != b+1 {
				t.Errorf("the first has %d, the second %d", a, b)
			}
			moved = max(moved, a)
			x, err := frozen(t, dir, 2*i, now[0])
			if err != nil {
				return nil, err
			}
			y, err := frozen(t, dir, 2*i+1, now[1])
			return []*vhd.Disk{x, y}, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if moved < 12 {
		t.Errorf("only %d writes: nothing was shown", moved)
	}
}

// slow is content that comes when it is let through.
type slow struct {
	gate    chan struct{}
	waiting chan struct{}
}

func (s slow) ReadAt(p []byte, _ int64) (int, error) {
	s.waiting <- struct{}{}
	<-s.gate
	for i := range p {
		p[i] = 9
	}
	return len(p), nil
}

// TestSlowParent: a read that waits for a parent holds up neither writes, nor reads of what is there, nor a swap's other readers.
func TestSlowParent(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	id := image.RandomUUID([16]byte{15: 1})
	parent := slow{make(chan struct{}), make(chan struct{}, 1)}
	f, err := os.Create(filepath.Join(t.TempDir(), "leaf.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := vhd.Create(f, vhd.CreateOptions{Size: size, UUID: image.RandomUUID([16]byte{15: 2}), Parent: &vhd.Parent{UUID: id, Path: "p.vhd"}}); err != nil {
		t.Fatal(err)
	}
	open := func(r io.ReaderAt) *vhd.Disk {
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		d, err := vhd.OpenDisk(f, st.Size(), []*vhd.Image{vhd.Content(id, r, size)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	l := disk.NewLive(open(parent))
	read := make(chan error, 1)
	first := make([]byte, 4096)
	go func() {
		_, err := l.ReadAt(first, 0)
		read <- err
	}()
	<-parent.waiting
	p, got := noise(4096, 1), make([]byte, 4096)
	if _, err := l.WriteAt(p, 4*mib); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ReadAt(got, 4*mib); err != nil || !bytes.Equal(got, p) {
		t.Errorf("reads something else: %v", err)
	}
	swapped := make(chan error, 1)
	next := make(chan struct{})
	go func() {
		swapped <- l.Swap(func(*vhd.Disk) (*vhd.Disk, error) {
			defer close(next)
			return open(bytes.NewReader(bytes.Repeat([]byte{9}, size))), nil
		})
	}()
	<-next
	if _, err := l.WriteAt(noise(512, 1), 5*mib); err != nil { // waits for the exchange
		t.Fatal(err)
	}
	if _, err := l.ReadAt(got, 0); err != nil || got[0] != 9 {
		t.Errorf("the new disk reads %d: %v", got[0], err)
	}
	select {
	case err := <-swapped:
		t.Errorf("the swap is over (%v) while the old disk is read", err)
	default:
	}
	close(parent.gate)
	if err := errors.Join(<-read, <-swapped); err != nil || first[0] != 9 {
		t.Errorf("the read that waited: %d, %v", first[0], err)
	}
}
