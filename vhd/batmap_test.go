package vhd_test

import (
	"bytes"
	"errors"
	"testing"

	"disksync/vhd"
)

// tapdiskFile returns a disk that tapdisk's library made: blocks 1, 2 and 4 of 16 are there, and its batmap, at 2048, calls 1
// and 2 full. The map is changed by edit.
func tapdiskFile(t testing.TB, edit func(head, bits []byte)) []byte {
	t.Helper()
	b := corpusBytes(t, "gen-vhd-util/batmap")
	edit(b[2048:2560], b[2560:3072])
	return b
}

func claims(bits byte) func(head, b []byte) {
	return func(head, b []byte) { b[0] = bits; batmapSum(head, b) }
}

// noLies checks that no block is called full that is not, and that nothing else is wrong.
func noLies(t testing.TB, f *memFile) {
	t.Helper()
	rep := check(t, f, vhd.CheckOptions{Bitmaps: true})
	if worst, _ := rep.Worst(); worst > vhd.Note {
		t.Errorf("findings %v", rep.Findings)
	}
}

// TestBatmapStaysTrue: writing to tapdisk's file keeps what its batmap says true: bits of blocks that are there stay, and one of
// a block that was not there goes before the block comes.
func TestBatmapStaysTrue(t *testing.T) {
	t.Parallel()
	for _, bits := range []byte{0x60, 0xe0} { // 0xe0 claims block 0, which is not there
		f := inMemory(tapdiskFile(t, claims(bits)))
		model := composed(t, f)
		d := openDisk(t, f)
		for _, off := range []int64{5, 4*vhd.DefaultBlockSize + 1000, 9 * vhd.DefaultBlockSize} {
			p := noise(3000, uint64(off))
			copy(model[off:], p)
			if _, err := d.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		noLies(t, f)
		if f.data[2560] != 0x60 {
			t.Errorf("bits %x became %x; what is true may stay", bits, f.data[2560])
		}
		if !bytes.Equal(composed(t, f), model) {
			t.Error("content differs")
		}
	}
}

// TestBatmapPowerLoss: whenever the power is cut, a batmap whose checksum is right does not lie about a block.
func TestBatmapPowerLoss(t *testing.T) {
	t.Parallel()
	start, _ := smallTap(t, 0xf4) // claims block 2, which is not there
	do := func(f *memFile) error {
		d, err := vhd.OpenDisk(f, f.size(), nil)
		if err != nil {
			return err
		}
		if _, err := d.WriteAt(noise(512, 1), 2*4096); err != nil {
			return err
		}
		return d.Sync()
	}
	damaged := false
	crashEverywhere(t, start, do, func(t *testing.T, after *memFile) {
		m := openImage(t, after)
		rep := check(t, after, vhd.CheckOptions{Bitmaps: true})
		damaged = damaged || rep.Has(vhd.BatmapDamaged)
		if m.Allocated(2) && rep.Has(vhd.BatmapWrong) {
			t.Errorf("findings %v", rep.Findings)
		}
	})
	if !damaged {
		t.Error("no cut came between the map's header and the map; this test tests nothing")
	}
}

// TestBatmapResize: the batmap goes with the table, and covers what tapdisk reads of it.
func TestBatmapResize(t *testing.T) {
	t.Parallel()
	f := inMemory(tapdiskFile(t, claims(0x60)))
	content := composed(t, f)
	for _, size := range []int64{10 << 30, 40 << 20, 64 << 20, 6 << 20} {
		d := openDisk(t, f)
		if err := d.Resize(t.Context(), size, vhd.ResizeOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(noise(1000, 1), size-1000); err != nil {
			t.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		noLies(t, f)
		h, _ := openImage(t, f).Header()
		at := h.TableOffset + uint64(4*h.MaxTableEntries+511)/512*512
		if string(f.data[at:at+8]) != "tdbatmap" {
			t.Fatalf("size %d: no batmap behind the table", size)
		}
		got := make([]byte, 4<<20)
		if _, err := openDisk(t, f).ReadAt(got, 0); err != nil || !bytes.Equal(got, content[:len(got)]) {
			t.Errorf("size %d: content differs (%v)", size, err)
		}
	}
}

// TestBatmapRefusals: what is encrypted is not written to, and a table is not moved away from a batmap that cannot be read.
func TestBatmapRefusals(t *testing.T) {
	t.Parallel()
	b, _ := smallTap(t, 0xd4)
	key, damaged := bytes.Clone(b), bytes.Clone(b)
	key[2048+29], damaged[2560] = 1, 0xff
	f := inMemory(key)
	if _, err := vhd.OpenDisk(f, f.size(), nil); !errors.Is(err, vhd.Encrypted) {
		t.Errorf("encrypted: %v", err)
	}
	if !hasWarning(openImage(t, f), vhd.Encrypted) {
		t.Error("an encrypted disk opens without a warning")
	}
	f = inMemory(damaged)
	d := openDisk(t, f)
	if err := d.Resize(t.Context(), 4<<20, vhd.ResizeOptions{}); !errors.Is(err, vhd.BatmapDamaged) {
		t.Errorf("resize beside a damaged batmap: %v", err)
	}
	if _, err := d.WriteAt(noise(512, 1), 0); err != nil {
		t.Errorf("write beside a damaged batmap: %v", err)
	}
}
