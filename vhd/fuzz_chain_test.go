package vhd_test

import (
	"bytes"
	"errors"
	"testing"

	"disksync/image"
	"disksync/vhd"
)

// FuzzChain: files that name one another as parents in any way make a chain that reads as it should, or an error that says what is
// wrong with it; never an endless one. The input says for each file who its parent is, how large it is, and which sectors it holds.
func FuzzChain(f *testing.F) {
	f.Add([]byte{0, 9, 0x0f, 1, 9, 0xf0, 2, 9, 0x3c}) // a base, and two children
	f.Add([]byte{0, 9, 0xff, 1, 2, 0x01, 2, 9, 0x80}) // a small disk between large ones
	f.Add([]byte{2, 3, 1, 1, 3, 1})                   // a circle
	f.Add([]byte{1, 3, 1})                            // its own parent
	f.Add([]byte{7, 3, 1})                            // nobody's child
	f.Fuzz(func(t *testing.T, b []byte) {
		var family kin
		for id := byte(1); len(b) >= 3 && id <= 8; id++ {
			family = append(family, newRelative(t, id, b[0]%9, int64(b[1]%16+1)*image.SectorSize, b[2]))
			b = b[3:]
		}
		if len(family) == 0 {
			return
		}
		leaf := len(family)
		c, err := vhd.Resolve(family[leaf-1].image, func(child *vhd.Image) (*vhd.Image, error) {
			for _, r := range family {
				if r.image.UUID() == child.ParentUUID() {
					return r.image, nil
				}
			}
			return nil, vhd.NoParent
		})
		want, fault := family.content(leaf)
		if !errors.Is(err, fault) {
			t.Fatalf("%v, want %v", err, fault)
		}
		if fault != nil {
			return
		}
		if got := readAll(t, c, c.Size()); !bytes.Equal(got, want) {
			t.Errorf("content\n%x, want\n%x", got, want)
		}
	})
}

// relative is a file of the family: its sectors, of which the bits of held say which it has.
type relative struct {
	image  *vhd.Image
	parent int // number from 1; 0: none
	size   int64
	held   byte
	fill   byte
}

// kin are files numbered from 1.
type kin []relative

// newRelative makes a file that holds every sector whose number, by eight, has its bit in held.
func newRelative(t *testing.T, id, parent byte, size int64, held byte) relative {
	t.Helper()
	o := vhd.CreateOptions{Size: size, BlockSize: 4096, UUID: newUUID(id)}
	var below []*vhd.Image
	if parent != 0 {
		o.Parent = &vhd.Parent{UUID: newUUID(parent), Path: "p.vhd"}
		// What stands in for the parent is never read: whole sectors are written.
		below = []*vhd.Image{vhd.Content(newUUID(parent), bytes.NewReader(nil), 1<<20)}
	}
	f := create(t, o)
	if parent != id {
		d, err := vhd.OpenDisk(f, f.size(), below)
		if err != nil {
			t.Fatal(err)
		}
		for s := range size / image.SectorSize {
			if held>>(s%8)&1 == 0 {
				continue
			}
			if _, err := d.WriteAt(bytes.Repeat([]byte{id}, image.SectorSize), s*image.SectorSize); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return relative{openImage(t, f), int(parent), size, held, id}
}

// content returns what a file reads as with its parents, going about it as simply as can be.
func (k kin) content(leaf int) ([]byte, error) {
	out := make([]byte, k[leaf-1].size)
	seen := map[int]bool{}
	for n := leaf; ; n = k[n-1].parent {
		if seen[n] {
			return nil, vhd.Cycle
		}
		seen[n] = true
		switch parent := k[n-1].parent; {
		case parent == 0:
			return k.read(leaf, out), nil
		case parent > len(k):
			return nil, vhd.NoParent
		}
	}
}

func (k kin) read(leaf int, out []byte) []byte {
	for s := int64(0); s < int64(len(out))/image.SectorSize; s++ {
		for n := leaf; n != 0 && s*image.SectorSize < k[n-1].size; n = k[n-1].parent {
			if r := k[n-1]; r.held>>(s%8)&1 != 0 {
				copy(out[s*image.SectorSize:], bytes.Repeat([]byte{r.fill}, image.SectorSize))
				break
			}
		}
	}
	return out
}
