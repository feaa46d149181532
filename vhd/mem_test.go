package vhd_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"disksync/image"
	"disksync/vhd"
)

// memFile is a vhd.File in memory that remembers what was written since the last Sync, so that a test can cut the power.
type memFile struct {
	mu      sync.Mutex
	data    []byte
	synced  []byte
	pending []write // since the last sync
	ops     int
	failAt  int // the operation that fails; 0 means none
}

type write struct {
	off int64
	b   []byte
	cut bool // the file was cut to off bytes
}

var errInjected = errors.New("injected")

func (f *memFile) step() error {
	f.ops++
	if f.ops == f.failAt {
		return errInjected
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.NewReader(f.data).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return 0, err
	}
	f.data = overlay(f.data, p, off)
	f.pending = append(f.pending, write{off: off, b: bytes.Clone(p)})
	return len(p), nil
}

func (f *memFile) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return err
	}
	for _, w := range f.pending {
		if w.cut {
			f.synced = bytes.Clone(f.synced[:w.off])
		}
		f.synced = overlay(f.synced, w.b, w.off)
	}
	f.pending = nil
	return nil
}

// Truncate implements vhd.Truncater.
func (f *memFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return err
	}
	f.data = bytes.Clone(f.data[:size])
	f.pending = append(f.pending, write{off: size, cut: true})
	return nil
}

// roomyFile is a memFile of which room can be taken ahead.
type roomyFile struct {
	*memFile
	full  bool // there is none
	taken map[int64]bool
}

// Punch implements vhd.Puncher.
func (f roomyFile) Punch(off, length int64) error {
	_, err := f.WriteAt(make([]byte, min(length, max(0, f.size()-off))), off)
	return err
}

// Reserve implements vhd.Reserver.
func (f roomyFile) Reserve(off, length int64) bool {
	for at := off; at < off+length && f.taken != nil; at += 512 {
		f.taken[at/512] = true
	}
	return !f.full
}

func (f *memFile) size() int64 { return int64(len(f.data)) }

func overlay(data, p []byte, off int64) []byte {
	if len(p) == 0 {
		return data
	}
	if need := off + int64(len(p)); need > int64(len(data)) {
		data = append(data, make([]byte, need-int64(len(data)))...)
	}
	copy(data[off:], p)
	return data
}

// afterPowerLoss returns the file as a disk may hold it: everything synced, and of the rest each sector with probability
// keep. Sectors of one write are kept apart, as disks do.
func (f *memFile) afterPowerLoss(keep float64, r *rand.Rand) *memFile {
	data := bytes.Clone(f.synced)
	for _, w := range f.pending {
		if w.cut && r.Float64() < keep {
			data = bytes.Clone(data[:min(w.off, int64(len(data)))])
		}
		for at := int64(0); at < int64(len(w.b)); at += 512 {
			if r.Float64() < keep {
				data = overlay(data, w.b[at:min(at+512, int64(len(w.b)))], w.off+at)
			}
		}
	}
	return &memFile{data: data, synced: bytes.Clone(data)}
}

// newUUID returns a uuid that is the same in every run.
func newUUID(n byte) image.UUID { return image.RandomUUID([16]byte{15: n}) }

// create makes a disk in memory.
func create(t testing.TB, o vhd.CreateOptions) *memFile {
	t.Helper()
	f := &memFile{}
	if err := vhd.Create(f, o); err != nil {
		t.Fatal(err)
	}
	return f
}

func openImage(t testing.TB, f *memFile) *vhd.Image {
	t.Helper()
	m, err := vhd.Open(f, f.size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func openDisk(t testing.TB, f *memFile, parents ...*vhd.Image) *vhd.Disk {
	t.Helper()
	d, err := vhd.OpenDisk(f, f.size(), parents)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readAll(t fataler, r io.ReaderAt, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface {
	Helper()
	Fatal(...any)
}

// noise returns n bytes that depend on seed and are never zero.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return bytes.ReplaceAll(b, []byte{0}, []byte{1})
}
