package deploy_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/layer"
	"disksync/vhd"
)

const block = image.BlockSize

// disk is the content of a small disk: each block with a seed other than 0 has a short run of bytes that follow from the
// seed, so that it costs little to build and to check. A tail of a few sectors belongs to the last block.
func disk(sectors int, seeds ...uint64) []byte {
	d := make([]byte, len(seeds)*block+sectors*image.SectorSize)
	for i, seed := range seeds {
		if seed != 0 {
			noise(d[i*block+int(seed%512)*2048:][:6000], seed)
		}
	}
	return d
}

func noise(p []byte, seed uint64) {
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1}).Read(p)
}

// version is one version of an image with one disk.
type version struct {
	number image.Version
	disk   []byte
	state  image.State
	layers []made // that lead to it from nothing
	signed image.Verified
}

// made is a layer file.
type made struct {
	*layer.Index
	file []byte
}

func (m made) frame(f layer.Frame) []byte { return m.file[f.Offset:][:f.Length] }

// line is an image with its versions.
type line struct {
	name     string
	id       image.UUID
	mode     image.Mode
	key      ed25519.PrivateKey
	versions []version
}

func newLine(name string) *line {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return &line{name: name, id: image.RandomUUID([16]byte(append([]byte(name), make([]byte, 16)...))), mode: image.Static, key: ed25519.NewKeyFromSeed(seed)}
}

func (l *line) public() image.PublicKey { return image.PublicKey(l.key.Public().(ed25519.PublicKey)) }

// add makes d the next version: a difference to the one before, or a full image.
func (l *line) add(t testing.TB, full bool, d []byte) *line {
	t.Helper()
	v := version{number: image.Version(len(l.versions) + 1), disk: d}
	var from image.State
	if n := len(l.versions); n > 0 && !full {
		from, v.layers = l.versions[n-1].state, slices.Clone(l.versions[n-1].layers)
	}
	m, st := encode(t, from, d)
	v.layers, v.state = append(v.layers, m), st
	v.signed = l.sign(t, image.Manifest{Version: v.number, Disks: []image.Disk{diskOf(image.System, v)}})
	l.versions = append(l.versions, v)
	return l
}

func diskOf(r image.Role, v version) image.Disk {
	d := image.Disk{Role: r, Size: int64(len(v.disk)), State: v.state.ID()}
	for _, m := range v.layers {
		d.Layers = append(d.Layers, m.Ref())
	}
	return d
}

// encode makes the layer that leads from a state to d, with its blocks as they are: the race detector makes packing and unpacking a
// block cost more than all that is done with it. It is written after docs/format-layer.md, section 3, and not after package layer.
func encode(t testing.TB, from image.State, d []byte) (made, image.State) {
	t.Helper()
	st := stateOf(d)
	had := from.Resized(int64(len(d)))
	fromID, to := from.ID(), st.ID()
	file := append([]byte("\x89DSL\r\n\x1a\n"), 0, 0, 0, 1, 0, 0, 0, 0)
	var entries []byte
	for i, digest := range st.Blocks {
		if digest == had.Blocks[i] {
			continue
		}
		e := make([]byte, 56)
		binary.BigEndian.PutUint32(e, uint32(i))
		binary.BigEndian.PutUint64(e[16:], uint64(len(file)))
		copy(e[24:], digest[:])
		if !digest.IsZero() {
			e[4] = 1 // stored
			binary.BigEndian.PutUint32(e[12:], block)
			file = append(file, make([]byte, block)...)
			copy(file[len(file)-block:], d[i*block:])
		}
		entries = append(entries, e...)
	}
	x := binary.BigEndian.AppendUint64([]byte("DSLINDEX"), 1<<32)
	x = append(append(x, fromID[:]...), to[:]...)
	x = binary.BigEndian.AppendUint64(x, uint64(from.Size))
	x = binary.BigEndian.AppendUint64(x, uint64(len(d)))
	x = binary.BigEndian.AppendUint32(x, block)
	x = binary.BigEndian.AppendUint32(x, uint32(len(entries)/56))
	x = append(append(x, 0, 0, 0, 0, 0, 0, 0, 0), entries...)
	id := image.LayerID(sha256.Sum256(x))
	trailer := binary.BigEndian.AppendUint64(nil, uint64(len(file)))
	trailer = binary.BigEndian.AppendUint64(trailer, uint64(len(x)))
	trailer = binary.BigEndian.AppendUint64(append(trailer, id[:]...), 1<<32)
	file = append(append(append(file, x...), trailer...), "DSLTRAIL"...)
	index, err := layer.ReadIndex(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return made{index, file}, st
}

func stateOf(d []byte) image.State {
	st := image.State{Size: int64(len(d)), Blocks: make([]image.Digest, image.BlockCount(int64(len(d))))}
	whole := make([]byte, block)
	for i := range st.Blocks {
		clear(whole[copy(whole, d[i*block:]):])
		st.Blocks[i] = image.SumBlock(whole)
	}
	return st
}

// sign fills in what is the line's and signs.
func (l *line) sign(t testing.TB, m image.Manifest) image.Verified {
	t.Helper()
	m.Format, m.ImageID, m.Image, m.Created = 1, l.id, l.name, time.Unix(1700000000, 0).UTC()
	if m.Mode == "" {
		m.Mode = l.mode
	}
	env, err := image.SignManifest(&m, l.key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := image.VerifyManifest(env, l.public())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (l *line) version(n int) version { return l.versions[n-1] }

func openStore(t testing.TB, fsys durable.FS) *deploy.Store {
	t.Helper()
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// source is a Source in memory that counts what it is asked for, and can be made to fail.
type source struct {
	kind, name string
	held       map[image.Digest]made
	frames     map[image.Digest]layer.Frame
	// each is called before a block is delivered; it may change the frame's bytes. An error goes to the taker in the block's
	// place.
	each func(n int, d image.Digest, packed []byte) ([]byte, error)
	// after is called with the number of blocks delivered; an error ends Fetch.
	after func(n int) error

	mu      sync.Mutex
	asked   map[image.Digest]int
	fetches int
	given   int
}

// newSource returns a source that has all frames of the layers.
func newSource(kind string, layers ...made) *source {
	s := &source{
		kind: kind, name: "the " + kind, held: map[image.Digest]made{}, frames: map[image.Digest]layer.Frame{}, asked: map[image.Digest]int{},
	}
	for _, m := range layers {
		for i := range m.Len() {
			if f := m.Frame(i); f.Codec != layer.Zero {
				s.held[f.Digest], s.frames[f.Digest] = m, f
			}
		}
	}
	return s
}

func (s *source) Kind() string { return s.kind }
func (s *source) Name() string { return s.name }

func (s *source) Holds(d image.Digest) (int64, bool) {
	f, ok := s.frames[d]
	return int64(f.Length), ok
}

func (s *source) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	s.mu.Lock()
	s.fetches++
	s.mu.Unlock()
	blocks = slices.Clone(blocks)
	slices.SortFunc(blocks, image.Digest.Compare)
	for _, d := range blocks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.mu.Lock()
		s.asked[d]++
		s.given++
		n := s.given
		s.mu.Unlock()
		f := s.frames[d]
		packed, err := s.held[d].frame(f), error(nil)
		if s.each != nil {
			packed, err = s.each(n, d, bytes.Clone(packed))
		}
		if err := deliver(d, f, packed, err); err != nil {
			return err
		}
		if s.after != nil {
			if err := s.after(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// total returns how many blocks were asked for, counting repetitions.
func (s *source) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, k := range s.asked {
		n += k
	}
	return n
}

// installAll installs the layers of a version that are not there.
func installAll(ctx context.Context, s *deploy.Store, v version, t *deploy.Tally, sources ...deploy.Source) error {
	for _, m := range v.layers {
		if ok, err := s.Installed(m.To()); err != nil {
			return err
		} else if ok {
			continue
		}
		if _, err := s.Install(ctx, m.Index, sources, t); err != nil {
			return err
		}
	}
	return nil
}

// bring makes v the version of the VM "vm".
func bring(ctx context.Context, s *deploy.Store, v version, sources ...deploy.Source) error {
	if vm, err := s.VM("vm"); err == nil && vm.Current.Version == v.number {
		return nil
	}
	if err := installAll(ctx, s, v, deploy.NewTally(), sources...); err != nil {
		return err
	}
	_, err := s.Commit("vm", v.signed, nil)
	return err
}

// readVHD returns the content of the disk whose topmost file is id.
func readVHD(fsys durable.FS, id image.UUID) ([]byte, error) {
	c, closeAll, err := openVHD(fsys, id)
	defer closeAll()
	if err != nil {
		return nil, err
	}
	b := make([]byte, c.Size())
	_, err = c.ReadAt(b, 0)
	return b, err
}

// openVHD opens a chain in a way of its own, so that the package's is not its own judge.
func openVHD(fsys durable.FS, id image.UUID) (c *vhd.Chain, closeAll func(), err error) {
	var files []durable.File
	closeAll = func() {
		for _, f := range files {
			f.Close()
		}
	}
	open := func(id image.UUID) (*vhd.Image, error) {
		f, err := fsys.Open(deploy.Path(id))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		size, err := f.Size()
		if err != nil {
			return nil, err
		}
		return vhd.Open(f, size)
	}
	leaf, err := open(id)
	if err != nil {
		return nil, closeAll, err
	}
	c, err = vhd.Resolve(leaf, func(child *vhd.Image) (*vhd.Image, error) { return open(child.ParentUUID()) })
	return c, closeAll, err
}

// checkDisks compares all disks of a deployment with the content that they should have, which no VM has changed.
func checkDisks(fsys durable.FS, d *deploy.Deployment, want []byte) error {
	for _, k := range d.Disks {
		if err := sameContent(fsys, k.Leaf, want); err != nil {
			return fmt.Errorf("version %d, %s disk: %w", d.Version, k.Role, err)
		}
	}
	return nil
}

// buffers are for comparing; the content of thousands of disks is compared.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// sameContent compares the disk whose topmost file is id with what it should hold.
func sameContent(fsys durable.FS, id image.UUID, want []byte) error {
	c, closeAll, err := openVHD(fsys, id)
	defer closeAll()
	if err != nil {
		return err
	}
	if c.Size() != int64(len(want)) {
		return fmt.Errorf("%d bytes, want %d", c.Size(), len(want))
	}
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for at := 0; at < len(want); at += len(buf) {
		b := buf[:min(len(buf), len(want)-at)]
		if _, err := c.ReadAt(b, int64(at)); err != nil {
			return err
		}
		if !bytes.Equal(b, want[at:at+len(b)]) {
			return fmt.Errorf("the content differs between %d and %d", at, at+len(b))
		}
	}
	return nil
}

// files returns the names in a folder.
func files(t testing.TB, fsys durable.FS, dir string) []string {
	t.Helper()
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// writeDisk writes to a VHD as a VM does.
func writeDisk(t testing.TB, fsys durable.FS, id image.UUID, off int64, p []byte) {
	t.Helper()
	f, err := fsys.OpenWrite(deploy.Path(id))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := vhd.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	var parents []*vhd.Image
	if leaf.Type() == vhd.Differencing {
		c, closeAll, err := openVHD(fsys, leaf.ParentUUID())
		defer closeAll()
		if err != nil {
			t.Fatal(err)
		}
		parents = c.Members()
	}
	d, err := vhd.OpenDisk(f, size, parents)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
}

func newFS() *faultfs.FS { return faultfs.New() }

func nowForTests() time.Time { return time.Unix(1700000000, 0) }

func errorSays(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
