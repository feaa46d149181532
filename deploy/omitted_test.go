package deploy_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
)

// units says of units of 4 KiB that they are free.
type units map[int64]bool

const unit = 4096

func (u units) Run(off int64) (free bool, end int64) {
	return u[off/unit], (off/unit + 1) * unit
}

// some returns random units of a disk of size bytes.
func some(r *rand.Rand, size int64) units {
	u := units{}
	for range r.IntN(int(size / unit)) {
		u[r.Int64N(size/unit+1)] = true
	}
	return u
}

// whole reads all of a disk.
func whole(r interface {
	ReadAt([]byte, int64) (int, error)
	Size() int64
}) ([]byte, error) {
	// In blocks, as whoever packs them.
	b := make([]byte, r.Size())
	for off := int64(0); off < r.Size(); off += image.BlockSize {
		if _, err := r.ReadAt(b[off:min(off+image.BlockSize, r.Size())], off); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// sameHeld compares what the newest backup holds of a VM's disk, as a backup reads it, with its state.
func sameHeld(ctx context.Context, s *deploy.Store, d deploy.InstalledDisk) error {
	f, err := s.OpenFrozen(d)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Held != d.Held.State {
		return fmt.Errorf("what the newest backup holds cannot be read")
	}
	start, err := f.Since(ctx, f.Held, nil)
	if err != nil {
		return err
	}
	held, err := whole(start.Disk.(interface {
		ReadAt([]byte, int64) (int, error)
		Size() int64
	}))
	if err != nil {
		return err
	}
	if got := stateOf(held).ID(); got != f.Held || start.State.ID() != f.Held {
		return fmt.Errorf("what the newest backup holds is %s, the record says %s", got.Short(), f.Held.Short())
	}
	return nil
}

// TestOmitted: whatever is written, free and freed no more between backups, the state of a point is the disk with zeros for something of
// what is free then and nothing else, and what it holds can be read here as it was.
func TestOmitted(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3)
	h.bring("vm", 1)
	now := bytes.Clone(h.l.version(1).disk)
	r := rand.New(rand.NewPCG(3, 4))
	left := int64(0)
	for n := range 25 {
		vm, err := h.s.VM("vm")
		if err != nil {
			t.Fatal(err)
		}
		for range r.IntN(4) {
			p := make([]byte, 1+r.IntN(60000))
			noise(p, r.Uint64())
			off := r.Int64N(int64(len(now) - len(p)))
			copy(now[off:], p)
			writeDisk(t, h.fsys, leafOf(&vm.Current), off, p)
		}
		var free deploy.Free
		u := units{}
		if n%4 != 3 {
			u = some(r, int64(len(now)))
			free = u
		}
		omitted, err := backUpFree(t.Context(), h.s, nil, free, func(to []byte) error {
			for i := int64(0); i*unit < int64(len(now)); i++ {
				is, was := to[i*unit:min((i+1)*unit, int64(len(to)))], now[i*unit:min((i+1)*unit, int64(len(now)))]
				if !bytes.Equal(is, was) && !(u[i] && image.IsZero(is)) {
					return fmt.Errorf("backup %d: unit %d is not what is there", n, i)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		left += omitted
		if err := checkBackedUp(h.fsys, now); err != nil {
			t.Fatalf("backup %d: %v", n, err)
		}
		if vm, _ = h.s.VM("vm"); n%3 == 0 && vm.Current.Disks[0].Held != nil {
			if err := durable.Remove(h.fsys, "disks/"+image.VHDUUID(vm.Current.Disks[0].Held.State).String()+".point"); err != nil {
				t.Fatal(err)
			}
			if err := sameHeld(t.Context(), h.s, vm.Current.Disks[0]); err != nil {
				t.Fatalf("backup %d: %v", n, err)
			}
		}
	}
	if left < 1<<20 {
		t.Errorf("%d bytes were left out: this is no test", left)
	}
	lists := 0
	for _, f := range files(t, h.fsys, "disks") {
		if strings.HasSuffix(f, ".omitted") {
			lists++
		}
	}
	if lists > 1 {
		t.Errorf("%d lists of what was left out", lists)
	}
}

// TestOmittedIsLost: without the list of what was left out, or with a damaged one, the next backup starts from what was installed.
func TestOmittedIsLost(t *testing.T) {
	for name, spoil := range map[string]func(file string, b []byte) ([]byte, error){
		"missing":   func(string, []byte) ([]byte, error) { return nil, os.ErrNotExist },
		"damaged":   func(_ string, b []byte) ([]byte, error) { b[len(b)-1] ^= 4; return b, nil },
		"cut short": func(_ string, b []byte) ([]byte, error) { return b[:len(b)-1], nil },
		"empty":     func(string, []byte) ([]byte, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.version(true, 1, 2)
			vm := h.bring("vm", 1)
			p := make([]byte, 40*unit)
			noise(p, 9)
			writeDisk(t, h.fsys, leafOf(&vm.Current), 0, p)
			want := append(p, h.l.version(1).disk[len(p):]...)
			if n, err := backUpFree(t.Context(), h.s, nil, units{3: true, 4: true, 39: true}, nil); err != nil || n != 3*unit {
				t.Fatal(n, err)
			}
			vm, _ = h.s.VM("vm")
			file := "disks/" + vm.Current.Disks[0].Held.Omitted + ".omitted"
			b, err := durable.ReadFile(h.fsys, file, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if b, err = spoil(file, b); err != nil {
				err = durable.Remove(h.fsys, file)
			} else {
				err = durable.WriteFile(h.fsys, file, b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			f, err := h.s.OpenFrozen(vm.Current.Disks[0])
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Held != f.Base || f.Same() {
				t.Fatalf("what is held is %s", f.Held.Short())
			}
			if _, err := backUpFree(t.Context(), h.s, nil, nil, func(to []byte) error {
				if !bytes.Equal(to, want) {
					return fmt.Errorf("the point is not what is there")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if err := checkBackedUp(h.fsys, want); err != nil {
				t.Error(err)
			}
		})
	}
}
