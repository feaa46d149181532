package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"disksync/image"
	"disksync/vhd"
)

var (
	thisBoot  = image.RandomUUID([16]byte{15: 200})
	otherBoot = image.RandomUUID([16]byte{15: 201})
)

// mortal is a file of a process that dies in the middle of one of its writes or syncs: half of that write is done, and nothing after it.
type mortal struct {
	*memFile
	left *int // operations until then, of all files of the process
}

func (f mortal) dies() bool {
	*f.left--
	return *f.left <= 0
}

func (f mortal) WriteAt(p []byte, off int64) (int, error) {
	if f.dies() {
		if half := len(p) / 2; *f.left == 0 && len(p)%512 == 0 {
			_, _ = f.memFile.WriteAt(p[:half/512*512], off)
		} else if *f.left == 0 {
			_, _ = f.memFile.WriteAt(p[:half], off) // of the log
		}
		return 0, errInjected
	}
	return f.memFile.WriteAt(p, off)
}

func (f mortal) Sync() error {
	if f.dies() {
		return errInjected
	}
	return f.memFile.Sync()
}

func (f mortal) Truncate(size int64) error {
	if f.dies() {
		return errInjected
	}
	return f.memFile.Truncate(size)
}

// openLogged opens a leaf with its log.
func openLogged(t testing.TB, leaf, log *memFile, boot image.UUID, parents ...*vhd.Image) *vhd.Disk {
	t.Helper()
	d, err := vhd.OpenDisk(leaf, leaf.size(), parents, vhd.WithLog(log, boot))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestLogOutlivesProcess lets the process die at every single write and sync of a run. When the disk is opened again with its log,
// every write that had returned is there; of the one that had not, any part may be, also under clear bits; and the file is without
// fault.
func TestLogOutlivesProcess(t *testing.T) {
	t.Parallel()
	for _, depth := range []int{0, 1} {
		t.Run(fmt.Sprintf("depth %d", depth), func(t *testing.T) {
			t.Parallel()
			r := newPowerLossRun(t, depth)
			total := 0
			for cut := 1; ; cut++ {
				if !r.die(t, cut) {
					break
				}
				total = cut
			}
			if total < 60 {
				t.Errorf("only %d deaths", total)
			}
		})
	}
}

// die plays the run until operation number cut, dies and opens the disk again. It returns false when the run ended before.
func (p *powerLossRun) die(t *testing.T, cut int) (died bool) {
	t.Helper()
	leaf := &memFile{data: bytes.Clone(p.leaf), synced: bytes.Clone(p.leaf)}
	log := &memFile{}
	left := cut
	d, err := vhd.OpenDisk(mortal{leaf, &left}, leaf.size(), p.parents, vhd.WithLog(mortal{log, &left}, thisBoot))
	model := bytes.Clone(p.model)
	var under []write // what had not returned
	for i, w := range p.writes {
		if err != nil {
			break
		}
		under = []write{w}
		if i%5 == 2 {
			under[0].b = make([]byte, len(w.b))
			err = d.Discard(w.off, int64(len(w.b)))
		} else {
			_, err = d.WriteAt(w.b, w.off)
		}
		if err == nil {
			copy(model[w.off:], under[0].b)
			under = nil
		}
		if i%7 == 6 && err == nil {
			err = d.Sync()
		}
	}
	if err != nil && !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	// Twice: the second time there is nothing left to do.
	for range 2 {
		again := openLogged(t, leaf, log, thisBoot, p.parents...)
		now := readAll(t, again, again.Size())
		for s := int64(0); s < int64(len(now)); s += 512 {
			if !plausible(now[s:s+512], s, model, under) {
				t.Fatalf("cut %d: sector %d is not as it was acknowledged", cut, s/512)
			}
		}
	}
	if len(log.data) > 64 {
		t.Errorf("cut %d: %d bytes are left in the log", cut, len(log.data))
	}
	rep := check(t, leaf, vhd.CheckOptions{Data: true, Now: 1 << 30})
	for _, f := range rep.Findings {
		if f.Fault.Severity() != vhd.Note && f.Fault != vhd.JunkUnderClearBits {
			t.Errorf("cut %d: %v", cut, f)
		}
	}
	return err != nil
}

// TestLogOfAnotherStart: after a loss of power the log is dropped, whatever it holds, and what was synced counts.
func TestLogOfAnotherStart(t *testing.T) {
	t.Parallel()
	p := newPowerLossRun(t, 1)
	for cut := 20; cut < 400; cut += 7 {
		leaf := &memFile{data: bytes.Clone(p.leaf), synced: bytes.Clone(p.leaf)}
		log := &memFile{}
		left := cut
		d, err := vhd.OpenDisk(mortal{leaf, &left}, leaf.size(), p.parents, vhd.WithLog(mortal{log, &left}, thisBoot))
		model, safe := bytes.Clone(p.model), bytes.Clone(p.model)
		var since []write
		for i, w := range p.writes {
			if err != nil {
				break
			}
			since = append(since, w)
			if _, err = d.WriteAt(w.b, w.off); err == nil {
				copy(model[w.off:], w.b)
			}
			if i%5 == 4 && err == nil {
				if err = d.Sync(); err == nil {
					copy(safe, model)
					since = nil
				}
			}
		}
		for seed, keep := range []float64{0, 0.5, 1} {
			after := leaf.afterPowerLoss(keep, rand.New(rand.NewPCG(uint64(cut), uint64(seed))))
			again := openLogged(t, after, &memFile{data: bytes.Clone(log.data)}, otherBoot, p.parents...)
			now := readAll(t, again, again.Size())
			for s := int64(0); s < int64(len(now)); s += 512 {
				if !plausible(now[s:s+512], s, safe, since) {
					t.Fatalf("cut %d: sector %d is neither as it was synced nor as it was written since", cut, s/512)
				}
			}
		}
	}
}

// TestLogThatDiffers: a log with writes in it that does not fit the disk is refused, and neither is changed.
func TestLogThatDiffers(t *testing.T) {
	t.Parallel()
	leaf, parents, _ := newChainFiles(t, powerLossSize, 1)
	fresh := bytes.Clone(leaf.data)
	log := &memFile{}
	d := openLogged(t, leaf, log, thisBoot, parents...)
	if _, err := d.WriteAt(noise(4096, 1), 3*testBlock); err != nil {
		t.Fatal(err)
	}
	if len(log.data) != 64+2*24 {
		t.Fatalf("a log of %d bytes, want a block's place and its sectors", len(log.data))
	}
	tests := map[string]func() *memFile{
		"another uuid": func() *memFile {
			other := create(t, vhd.CreateOptions{
				Size: powerLossSize, BlockSize: testBlock, UUID: newUUID(77), Parent: &vhd.Parent{UUID: parents[0].UUID(), Path: "parent.vhd"},
			})
			return other
		},
		"another size": func() *memFile {
			other := &memFile{data: bytes.Clone(fresh)}
			if err := openDisk(t, other, parents...).Resize(t.Context(), powerLossSize-512, vhd.ResizeOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			return other
		},
		"the block is somewhere else": func() *memFile {
			other := &memFile{data: bytes.Clone(fresh)}
			d := openDisk(t, other, parents...)
			for _, off := range []int64{0, 3 * testBlock} {
				if _, err := d.WriteAt(noise(512, 1), off); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			return other
		},
		"the block's place is another's": func() *memFile {
			other := &memFile{data: bytes.Clone(fresh)}
			d := openDisk(t, other, parents...)
			if _, err := d.WriteAt(noise(512, 1), 0); err != nil {
				t.Fatal(err)
			}
			if err := d.Sync(); err != nil {
				t.Fatal(err)
			}
			return other
		},
		"the file was cut": func() *memFile { return &memFile{data: bytes.Clone(fresh)} },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			other := change()
			was, logWas := bytes.Clone(other.data), bytes.Clone(log.data)
			_, err := vhd.OpenDisk(other, other.size(), parents, vhd.WithLog(log, thisBoot))
			if !errors.Is(err, vhd.ErrLogDiffers) {
				t.Errorf("error %v", err)
			}
			if !bytes.Equal(other.data, was) || !bytes.Equal(log.data, logWas) {
				t.Error("something was changed")
			}
		})
	}
	again := openLogged(t, leaf, log, thisBoot, parents...)
	got := make([]byte, 4096)
	if _, err := again.ReadAt(got, 3*testBlock); err != nil || !bytes.Equal(got, noise(4096, 1)) {
		t.Errorf("the write is not there: %v", err)
	}
}

// TestLogAndResize: a disk that was resized with a log goes on with it.
func TestLogAndResize(t *testing.T) {
	t.Parallel()
	leaf, parents, model := newChainFiles(t, powerLossSize, 1)
	log := &memFile{}
	d := openLogged(t, leaf, log, thisBoot, parents...)
	for i, size := range []int64{powerLossSize + 40*testBlock, powerLossSize + 3*testBlock} {
		if err := d.Resize(t.Context(), size, vhd.ResizeOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		model = resized(model, size)
		p := noise(testBlock, uint64(i+50))
		copy(model[size-testBlock:], p)
		if _, err := d.WriteAt(p, size-testBlock); err != nil {
			t.Fatal(err)
		}
		d = openLogged(t, leaf, log, thisBoot, parents...) // without a sync
		if !bytes.Equal(readAll(t, d, size), model) {
			t.Fatalf("content differs after resize %d", i)
		}
	}
}

// plainFile is a file in memory without more ado.
type plainFile struct {
	mu sync.RWMutex
	b  []byte
}

func (f *plainFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return bytes.NewReader(f.b).ReadAt(p, off)
}

func (f *plainFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b = overlay(f.b, p, off)
	return len(p), nil
}

func (f *plainFile) Sync() error { return nil }

// TestLogIsBounded writes sector after sector from several sides without a sync of its own: the log does not grow for ever.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	const size, writers = 160 << 20, 4
	leaf, log := &plainFile{}, &plainFile{}
	o := vhd.CreateOptions{Size: size, UUID: newUUID(2), Parent: &vhd.Parent{UUID: newUUID(1), Path: "p.vhd"}}
	if err := vhd.Create(leaf, o); err != nil {
		t.Fatal(err)
	}
	d, err := vhd.OpenDisk(leaf, int64(len(leaf.b)), []*vhd.Image{vhd.Content(newUUID(1), sevens{}, size)}, vhd.WithLog(log, thisBoot))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range int64(writers) {
		wg.Go(func() {
			p := noise(512, uint64(w))
			for s := w; s < size/512; s += writers {
				if _, err := d.WriteAt(p, s*512); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if max := 64 + 24*(1<<18+1+writers); len(log.b) > max {
		t.Errorf("a log of %d bytes for %d records, want at most %d", len(log.b), size/512, max)
	}
	for _, s := range []int64{0, 1, 2, 3, size/512 - 1} {
		got := make([]byte, 512)
		if _, err := d.ReadAt(got, s*512); err != nil && s != size/512-1 || !bytes.Equal(got, noise(512, uint64(s%writers))) {
			t.Errorf("sector %d differs: %v", s, err)
		}
	}
}

// TestDiskAtOnce writes, zeroes, syncs and reads from several sides, each in sectors of its own, then lets the process die.
func TestDiskAtOnce(t *testing.T) {
	t.Parallel()
	const sides, size = 4, 64 * testBlock
	leaf, parents, model := newChainFiles(t, size, 3)
	log := &memFile{}
	d := openLogged(t, leaf, log, thisBoot, parents...)
	done := make(chan struct{})
	var syncer, wg sync.WaitGroup
	syncer.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := d.Sync(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for side := range sides {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(side), 1))
			for range 400 {
				// Runs of up to 8 sectors, of which every side has its own in each 32.
				off := r.Int64N(size/512/32)*32*512 + int64(side)*8*512
				n := (1 + r.Int64N(8)) * 512
				p := noise(int(n), r.Uint64())
				var err error
				if r.IntN(5) == 0 {
					clear(p)
					err = d.Discard(off, n)
				} else {
					_, err = d.WriteAt(p, off)
				}
				copy(model[off:], p)
				got := make([]byte, n)
				if _, rerr := d.ReadAt(got, off); err != nil || rerr != nil && off+n < size || !bytes.Equal(got, p) {
					t.Errorf("side %d reads back something else at %d: %v, %v", side, off, err, rerr)
					return
				}
			}
		})
	}
	wg.Wait()
	close(done)
	syncer.Wait()
	if !bytes.Equal(readAll(t, d, size), model) {
		t.Error("content differs")
	}
	again := openLogged(t, leaf, log, thisBoot, parents...)
	if !bytes.Equal(readAll(t, again, size), model) {
		t.Error("content differs after the death of the process")
	}
}

// FuzzLog: no log makes OpenDisk panic or damage the disk.
func FuzzLog(f *testing.F) {
	leaf, parents, _ := newChainFiles(f, powerLossSize, 1)
	start := bytes.Clone(leaf.data)
	log := &memFile{}
	d := openLogged(f, leaf, log, thisBoot, parents...)
	for _, off := range []int64{0, 3 * testBlock, 3*testBlock + 8192, 7 * testBlock} {
		if _, err := d.WriteAt(noise(4096, 1), off); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(log.data, true)
	f.Add(log.data[:100], false)
	f.Add(start[:600], false)
	written := leaf.data
	f.Fuzz(func(t *testing.T, b []byte, there bool) {
		data := start
		if there {
			data = written
		}
		leaf := &memFile{data: bytes.Clone(data), synced: bytes.Clone(data)}
		d, err := vhd.OpenDisk(leaf, leaf.size(), parents, vhd.WithLog(&memFile{data: sealLog(b)}, thisBoot))
		if err != nil {
			if !errors.Is(err, vhd.ErrLogDiffers) || leaf.ops > 0 {
				t.Fatalf("%v, after %d writes", err, leaf.ops)
			}
			return
		}
		readAll(t, d, d.Size())
		openDisk(t, leaf, parents...)
	})
}

// sealLog computes the checksums of a log again, or no change of the fuzzer's would get past them.
func sealLog(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < 64 {
		return b
	}
	copy(b, "vhd log1")
	copy(b[8:], thisBoot[:])
	putSum(b[:64], nil)
	for n, rec := uint32(0), b[64:]; len(rec) >= 24; n, rec = n+1, rec[24:] {
		if rec[0] != 0 { // block numbers are small
			break
		}
		rec[16], rec[17], rec[18], rec[19] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
		putSum(rec[:24], b[56:60])
	}
	return b
}

// putSum puts the CRC-32C of before and of b, but for its last four bytes, there.
func putSum(b, before []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Update(crc32.Checksum(before, table), table, b[:len(b)-4]))
}
