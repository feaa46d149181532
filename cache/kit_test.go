package cache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

const block = image.BlockSize

// disk is the content of a small disk: each block with a seed other than 0 has a short run of bytes that follow from the seed. A
// tail of three sectors belongs to the last block.
func disk(seeds ...uint64) []byte {
	d := make([]byte, len(seeds)*block+3*image.SectorSize)
	for i, seed := range seeds {
		if seed != 0 {
			rand.NewChaCha8([32]byte{byte(seed), 1}).Read(d[i*block+int(seed%64)*4096:][:3000])
		}
	}
	d[len(d)-1] = 0xee
	return d
}

// packed is a layer and its file.
type packed struct {
	*layer.Index
	file  []byte
	state image.State // that it leads to
}

type memDisk []byte

func (d memDisk) Size() int64 { return int64(len(d)) }

func (d memDisk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d).ReadAt(p, off) }

func pack(from image.State, d []byte) (packed, error) {
	var b bytes.Buffer
	res, err := layer.Encode(context.Background(), &b, from, memDisk(d), layer.EncodeOptions{Level: 1, Workers: 1})
	return packed{res.Index, b.Bytes(), res.State}, err
}

// goods are two versions of a disk in all the forms that a medium may have them in.
type goods struct {
	disk1, disk2 []byte
	full, diff   packed // layers
	uuid1, uuid2 image.UUID
	base, child  []byte // a chain of VHD files
	fixed        []byte // version 1 as a fixed VHD file
}

var made = sync.OnceValues(makeGoods)

func makeGoods() (*goods, error) {
	g := &goods{
		disk1: disk(1, 2, 0, 3), disk2: disk(1, 4, 0, 3, 5),
		uuid1: image.UUID{1, 15: 1}, uuid2: image.UUID{2, 15: 2},
	}
	var err error
	if g.full, err = pack(image.State{}, g.disk1); err != nil {
		return nil, err
	}
	if g.diff, err = pack(g.full.state, g.disk2); err != nil {
		return nil, err
	}
	base := &memFile{}
	if err := writeVHD(base, vhd.CreateOptions{Size: int64(len(g.disk1)), UUID: g.uuid1}, nil, g.disk1); err != nil {
		return nil, err
	}
	below, err := vhd.Open(base, int64(len(base.b)))
	if err != nil {
		return nil, err
	}
	child := &memFile{}
	o := vhd.CreateOptions{Size: int64(len(g.disk2)), UUID: g.uuid2, Parent: &vhd.Parent{UUID: g.uuid1, Path: "nowhere.vhd"}}
	if err := writeVHD(child, o, []*vhd.Image{below}, g.disk2); err != nil {
		return nil, err
	}
	g.base, g.child = base.b, child.b
	// A fixed disk is the content and a footer that says so.
	footer := bytes.Clone(g.base[:vhd.FooterSize])
	binary.BigEndian.PutUint64(footer[16:], ^uint64(0))
	binary.BigEndian.PutUint32(footer[60:], 2)
	sum(footer, 64)
	g.fixed = append(bytes.Clone(g.disk1), footer...)
	return g, nil
}

func get(t testing.TB) *goods {
	t.Helper()
	g, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sum writes the checksum of a footer or header, which is at the offset at.
func sum(b []byte, at int) {
	clear(b[at : at+4])
	var n uint32
	for _, c := range b {
		n += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^n)
}

// memFile is a file in memory.
type memFile struct{ b []byte }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if grow := int(off) + len(p) - len(f.b); grow > 0 {
		f.b = append(f.b, make([]byte, grow)...)
	}
	return copy(f.b[off:], p), nil
}

func (f *memFile) Sync() error { return nil }

// writeVHD makes a VHD file that holds d, with the sectors that differ from what is below.
func writeVHD(f *memFile, o vhd.CreateOptions, below []*vhd.Image, d []byte) error {
	if err := vhd.Create(f, o); err != nil {
		return err
	}
	v, err := vhd.OpenDisk(f, int64(len(f.b)), below)
	if err != nil {
		return err
	}
	had := make([]byte, image.SectorSize)
	for at := 0; at < len(d); at += len(had) {
		if _, err := v.ReadAt(had, int64(at)); err != nil {
			return err
		}
		if want := d[at : at+len(had)]; !bytes.Equal(had, want) {
			if _, err := v.WriteAt(want, int64(at)); err != nil {
				return err
			}
		}
	}
	return v.Sync()
}

// wanted is what a transfer of both versions wants.
func (g *goods) wanted() cache.Wanted {
	w := cache.Wanted{
		Blocks: map[image.Digest]bool{}, Layers: []*layer.Index{g.full.Index, g.diff.Index},
		Disks: []cache.Disk{{State: g.full.state, UUIDs: []image.UUID{g.uuid1}}, {State: g.diff.state, UUIDs: []image.UUID{g.uuid2}}},
	}
	for _, st := range []image.State{g.full.state, g.diff.state} {
		for _, d := range st.Blocks {
			if !d.IsZero() {
				w.Blocks[d] = true
			}
		}
	}
	return w
}

// write puts a file on a medium, with the folders that it needs.
func write(t testing.TB, dir, name string, b []byte) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func scan(t testing.TB, dir string) *cache.Inventory {
	t.Helper()
	inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inv.Close)
	return inv
}

// harvest is what a medium gives.
type harvest struct {
	good map[image.Digest]bool
	bad  map[image.Digest]error
	err  error // that ended it
}

// fetch gets all that a medium claims to have and checks each block, as whoever uses a medium does.
func fetch(t testing.TB, s *cache.Source, w cache.Wanted) harvest {
	t.Helper()
	h := harvest{good: map[image.Digest]bool{}, bad: map[image.Digest]error{}}
	var claims []image.Digest
	for _, d := range slices.SortedFunc(maps.Keys(w.Blocks), image.Digest.Compare) {
		if _, ok := s.Holds(d); ok {
			claims = append(claims, d)
		}
	}
	if len(claims) != s.Len() {
		t.Errorf("%d claims, it says %d", len(claims), s.Len())
	}
	dec := layer.NewDecoder(1)
	defer dec.Close()
	b := make([]byte, block)
	h.err = s.Fetch(t.Context(), claims, func(d image.Digest, f layer.Frame, packed []byte, err error) error {
		if f.Digest != d {
			t.Errorf("frame of %s for block %s", f.Digest.Short(), d.Short())
		}
		if err == nil {
			err = dec.Block(b, f, packed, nil)
		}
		if err != nil {
			h.bad[d] = err
			return nil
		}
		if image.SumBlock(b) != d {
			t.Errorf("a block that is not %s passed for it", d.Short())
		}
		h.good[d] = true
		return nil
	})
	return h
}

// blocks returns the digests of those blocks that are not zero, without repetitions.
func blocks(states ...image.State) map[image.Digest]bool {
	out := map[image.Digest]bool{}
	for _, st := range states {
		for _, d := range st.Blocks {
			if !d.IsZero() {
				out[d] = true
			}
		}
	}
	return out
}
