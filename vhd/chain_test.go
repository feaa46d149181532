package vhd_test

import (
	"bytes"
	"errors"
	"testing"

	"disksync/image"
	"disksync/vhd"
)

// diff returns an empty differencing disk.
func diff(t *testing.T, id, parent byte, size int64) *vhd.Image {
	t.Helper()
	p := &vhd.Parent{Path: "p.vhd"}
	if parent != 0 {
		p.UUID = newUUID(parent)
	}
	return openImage(t, create(t, vhd.CreateOptions{Size: size, UUID: newUUID(id), Parent: p}))
}

func base(t *testing.T, id byte, size int64) *vhd.Image {
	t.Helper()
	return openImage(t, create(t, vhd.CreateOptions{Size: size, UUID: newUUID(id)}))
}

func TestNewChainRefuses(t *testing.T) {
	const size = 1 << 20
	deep := []*vhd.Image{}
	for i := range vhd.MaxDepth {
		deep = append(deep, diff(t, byte(i+1), byte(i+2), size))
	}
	deep = append(deep, base(t, vhd.MaxDepth+1, size))
	for _, c := range []struct {
		name    string
		members []*vhd.Image
		want    vhd.Fault
	}{
		{"empty", nil, vhd.NoParent},
		{"no parent", []*vhd.Image{diff(t, 1, 2, size)}, vhd.NoParent},
		{"wrong parent", []*vhd.Image{diff(t, 1, 2, size), base(t, 3, size)}, vhd.WrongParent},
		{"raw where a VHD belongs", []*vhd.Image{diff(t, 1, 2, size), vhd.Raw(nil, size)}, vhd.WrongParent},
		{"VHD where a raw disk belongs", []*vhd.Image{diff(t, 1, 0, size), base(t, 2, size)}, vhd.WrongParent},
		{"something below the base", []*vhd.Image{base(t, 1, size), base(t, 2, size)}, vhd.WrongParent},
		{"cycle", []*vhd.Image{diff(t, 1, 2, size), diff(t, 2, 1, size), diff(t, 1, 2, size), base(t, 2, size)}, vhd.Cycle},
		{"too deep", deep, vhd.TooDeep},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := vhd.NewChain(c.members...); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// TestResolveEnds: a disk that names itself or its child as parent must not be followed for ever.
func TestResolveEnds(t *testing.T) {
	byUUID := map[image.UUID]*vhd.Image{}
	for _, m := range []*vhd.Image{diff(t, 1, 1, 1<<20), diff(t, 2, 3, 1<<20), diff(t, 3, 2, 1<<20)} {
		byUUID[m.UUID()] = m
	}
	find := func(child *vhd.Image) (*vhd.Image, error) { return byUUID[child.ParentUUID()], nil }
	for id := byte(1); id <= 3; id++ {
		if _, err := vhd.Resolve(byUUID[newUUID(id)], find); !errors.Is(err, vhd.Cycle) {
			t.Errorf("from %d: %v, want a cycle", id, err)
		}
	}
	// Nil uuids cannot tell a cycle; the depth does.
	endless := diff(t, 9, 0, 1<<20)
	if _, err := vhd.Resolve(endless, func(*vhd.Image) (*vhd.Image, error) { return endless, nil }); !errors.Is(err, vhd.TooDeep) {
		t.Errorf("endless: %v", err)
	}
}

// TestChainOfUnequalSizes: beyond the end of a parent there are zeros, even when a grandparent has data there.
func TestChainOfUnequalSizes(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, 3*4096)
	small := diff(t, 2, 0, 4096)
	leaf := diff(t, 3, 2, 4*4096)
	c, err := vhd.NewChain(leaf, small, vhd.Raw(bytes.NewReader(raw), int64(len(raw))))
	if err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Repeat([]byte{7}, 4096), make([]byte, 3*4096)...)
	if got := readAll(t, c, c.Size()); !bytes.Equal(got, want) {
		t.Error("data of the grandparent shows beyond the parent's end")
	}
}

// TestRawParentReads: a nil parent uuid means a raw file, as tapdisk writes it.
func TestRawParentReads(t *testing.T) {
	const size = 3 << 20
	raw := noise(size, 5)
	f := create(t, vhd.CreateOptions{Size: size, UUID: newUUID(1), Parent: &vhd.Parent{Path: "base.raw"}})
	d := openDisk(t, f, vhd.Raw(bytes.NewReader(raw), size))
	p := noise(1000, 6)
	if _, err := d.WriteAt(p, 777); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(raw)
	copy(want[777:], p)
	if got := readAll(t, d, d.Size()); !bytes.Equal(got, want) {
		t.Error("content differs")
	}
}
