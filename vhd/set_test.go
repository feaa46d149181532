package vhd_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/image"
	"disksync/vhd"
)

func TestSetFields(t *testing.T) {
	t.Parallel()
	good, content := goodDisk(t)
	editFooters(good, func(f []byte) { copy(f[300:], "kept") })
	id, hidden, state, stamp, original := newUUID(7), uint8(1), uint8(1), vhd.Timestamp(123456), int64(1<<20)
	creator := vhd.Creator{App: [4]byte{'q', 'e', 'm', '2'}, Version: 5 << 16}
	geometry := vhd.Geometry{Cylinders: 65535, Heads: 16, Sectors: 255}
	c := vhd.Fields{
		UUID: &id, Hidden: &hidden, SavedState: &state, Timestamp: &stamp, OriginalSize: &original,
		Creator: &creator, Geometry: &geometry,
	}
	f := inMemory(good)
	if err := vhd.SetFields(f, f.size(), c); err != nil {
		t.Fatal(err)
	}
	m := openImage(t, f)
	if len(m.Warnings()) > 0 {
		t.Errorf("warnings %v", m.Warnings())
	}
	got := m.Footer()
	want := openImage(t, inMemory(good)).Footer()
	want.UUID, want.Hidden, want.SavedState, want.Timestamp, want.OriginalSize = id, hidden, state, stamp, original
	want.Creator, want.Geometry = creator, geometry
	if d := cmp.Diff(want, got, cmp.AllowUnexported(vhd.Footer{})); d != "" {
		t.Error(d)
	}
	if !bytes.Equal(f.data[300:304], []byte("kept")) || !bytes.Equal(f.data[512:len(f.data)-512], good[512:len(good)-512]) {
		t.Error("other bytes changed")
	}
	if !bytes.Equal(composed(t, f), content) {
		t.Error("content changed")
	}
	ops := f.ops
	if err := vhd.SetFields(f, f.size(), c); err != nil || f.ops != ops {
		t.Errorf("to set what is set wrote to the file (%v)", err)
	}
}

// TestSetFieldsPowerLoss: after a cut at any write the file opens with all old or all new values.
func TestSetFieldsPowerLoss(t *testing.T) {
	t.Parallel()
	good, content := goodDisk(t)
	fixed := corpusBytes(t, "gen-qemu/fixed-1sector")
	for name, start := range map[string][]byte{"dynamic": good, "fixed": fixed} {
		t.Run(name, func(t *testing.T) {
			id, hidden := newUUID(7), uint8(1)
			old := openImage(t, inMemory(start)).UUID()
			do := func(f *memFile) error {
				return vhd.SetFields(f, f.size(), vhd.Fields{UUID: &id, Hidden: &hidden})
			}
			seen := map[image.UUID]bool{}
			crashEverywhere(t, start, do, func(t *testing.T, after *memFile) {
				m := openImage(t, after)
				seen[m.UUID()] = true
				if isNew := m.UUID() == id; !isNew && m.UUID() != old || (m.Footer().Hidden == 1) != isNew {
					t.Fatalf("uuid %s, hidden %d", m.UUID(), m.Footer().Hidden)
				}
				if name == "dynamic" && !bytes.Equal(composed(t, after), content) {
					t.Fatal("content changed")
				}
				repair(t, after, vhd.RepairOptions{})
				if err := do(after); err != nil {
					t.Fatal(err)
				}
			})
			if len(seen) != 2 {
				t.Errorf("saw %d outcomes, want both", len(seen))
			}
		})
	}
}

func TestSetFieldsRefuses(t *testing.T) {
	t.Parallel()
	good, _ := goodDisk(t)
	child, _, _ := goodChild(t)
	parent := newUUID(1)
	two, odd := uint8(2), int64(513)
	tap := vhd.Creator{App: [4]byte{'t', 'a', 'p'}, Version: 0x10003}
	for _, c := range []struct {
		name   string
		file   []byte
		fields vhd.Fields
		want   error
	}{
		{"nil uuid", good, vhd.Fields{UUID: &image.UUID{}}, vhd.NilUUID},
		{"uuid of the parent", child, vhd.Fields{UUID: &parent}, vhd.Cycle},
		{"hidden", good, vhd.Fields{Hidden: &two}, vhd.OddFooter},
		{"saved state", good, vhd.Fields{SavedState: &two}, vhd.OddFooter},
		{"original size", good, vhd.Fields{OriginalSize: &odd}, vhd.BadSize},
		{"becomes tapdisk's", good, vhd.Fields{Creator: &tap}, vhd.BadVersion},
		{"end footer missing", good[:len(good)-512], vhd.Fields{UUID: &parent}, vhd.EndFooterMissing},
		{"no VHD", make([]byte, 4096), vhd.Fields{UUID: &parent}, vhd.NotVHD},
	} {
		f := inMemory(c.file)
		if err := vhd.SetFields(f, f.size(), c.fields); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if f.ops > 0 {
			t.Errorf("%s: the file was written to", c.name)
		}
	}
}
