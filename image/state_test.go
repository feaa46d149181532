package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/image"
)

// state returns a state of a disk of that size. Every third block is zero.
func state(size int64) image.State {
	s := image.State{Size: size, Blocks: make([]image.Digest, image.BlockCount(size))}
	for i := range s.Blocks {
		if i%3 != 2 {
			s.Blocks[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		}
	}
	return s
}

func marshal(t testing.TB, s image.State) []byte {
	t.Helper()
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIDs(t *testing.T) {
	const text = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	id, err := image.ParseStateID(text)
	if err != nil {
		t.Fatal(err)
	}
	if id.String() != text || id.Short() != text[:12] || id.IsZero() {
		t.Errorf("read as %s, %s, zero: %v", id, id.Short(), id.IsZero())
	}
	b, err := json.Marshal(map[image.StateID]image.StateID{id: id})
	if want := `{"` + text + `":"` + text + `"}`; err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
	var back map[image.StateID]image.StateID
	if err := json.Unmarshal(b, &back); err != nil || back[id] != id {
		t.Errorf("%v, %v", back, err)
	}
	bigger := id
	bigger[0]++
	if id.Compare(bigger) != -1 || bigger.Compare(id) != 1 || id.Compare(id) != 0 {
		t.Error("not in the order of their bytes")
	}
	if !(image.Digest{}).IsZero() || (image.LayerID{31: 1}).IsZero() {
		t.Error("what is zero is not, or the other way round")
	}

	for name, bad := range map[string]string{
		"empty": "", "short": text[:63], "long": text + "0", "one byte less": text[:62], "one byte more": text + "00", "upper case": strings.ToUpper(text),
		"one upper case digit": text[:60] + "DdEE", "not a digit": text[:63] + "g", "blank before": " " + text[1:], "line end": text[:63] + "\n",
		"prefix": "0x" + text[2:], "other digits": strings.Repeat("\uff11", 21) + "0", "zero byte": text[:63] + "\x00",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := image.ParseStateID(bad); err == nil {
				t.Errorf("state %q was read as %v", bad, got)
			}
			if got, err := image.ParseLayerID(bad); err == nil {
				t.Errorf("layer %q was read as %v", bad, got)
			}
			if got, err := image.ParseDigest(bad); err == nil {
				t.Errorf("digest %q was read as %v", bad, got)
			}
		})
	}
	if _, err := image.ParseDigest(strings.Repeat("x", 1<<20)); err == nil || len(err.Error()) > 300 {
		t.Errorf("hostile text in the error: %d bytes", len(err.Error()))
	}
}

func TestUUIDs(t *testing.T) {
	const text = "00112233-4455-6677-8899-aabbccddeeff"
	u, err := image.ParseUUID(strings.ToUpper(text))
	if err != nil || u.String() != text {
		t.Fatalf("%v, %v", u, err)
	}
	for _, bad := range []string{
		"", text[:35], text + "0", strings.ReplaceAll(text, "-", ""), "{" + text[1:35] + "}", text[:35] + "g", strings.Replace(text, "-", "_", 1),
		"0011223-34455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccdd-eff",
	} {
		if got, err := image.ParseUUID(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
	if r := image.RandomUUID([16]byte{}).String(); r != "00000000-0000-4000-8000-000000000000" {
		t.Errorf("version 4: %s", r)
	}
	// The format document promises this value to other programs.
	sum := sha256.Sum256(append([]byte("disksync vhd uuid 1\x00"), make([]byte, 32)...))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	if got := image.VHDUUID(image.StateID{}); !bytes.Equal(got[:], sum[:16]) {
		t.Errorf("version 8: %s", got)
	}
	if image.VHDUUID(image.StateID{1}) == image.VHDUUID(image.StateID{2}) {
		t.Error("two states share a uuid")
	}
}

func TestBlocks(t *testing.T) {
	for size, want := range map[int64]int{0: 0, 1: 1, 512: 1, image.BlockSize: 1, image.BlockSize + 1: 2, image.MaxDiskSize: 1_044_480} {
		if got := image.BlockCount(size); got != want {
			t.Errorf("%d bytes are %d blocks, want %d", size, got, want)
		}
	}
	for size, want := range map[int64]bool{
		0: false, -512: false, 1: false, 511: false, 512: true, 513: false, image.MaxDiskSize: true, image.MaxDiskSize + 512: false, -1 << 63: false,
	} {
		if got := image.ValidSize(size); got != want {
			t.Errorf("size %d is valid: %v", size, got)
		}
	}
	p := make([]byte, image.BlockSize)
	if !image.SumBlock(p).IsZero() {
		t.Error("a block of zeros has a digest")
	}
	for _, i := range []int{0, 32<<10 - 1, 32 << 10, len(p) - 1} {
		p[i] = 1
		if image.IsZero(p) || image.SumBlock(p) != image.Digest(sha256.Sum256(p)) {
			t.Errorf("one byte at %d is not seen", i)
		}
		p[i] = 0
	}
	if !image.IsZero(nil) || !image.IsZero(p[:33<<10]) {
		t.Error("zeros are not zero")
	}
	defer func() {
		if recover() == nil {
			t.Error("a digest of a part of a block")
		}
	}()
	image.SumBlock(p[1:])
}

// TestState: writing and reading is the identity, and the name is that of the encoding.
func TestState(t *testing.T) {
	for _, size := range []int64{512, 1024, image.BlockSize - 512, image.BlockSize, image.BlockSize + 512, 7*image.BlockSize + 512, 1000 * image.BlockSize} {
		s := state(size)
		b := marshal(t, s)
		if int64(len(b)) != image.EncodedStateSize(size) || s.ID() != image.StateID(sha256.Sum256(b)) {
			t.Errorf("size %d: %d bytes named %s", size, len(b), s.ID())
		}
		back, err := image.ParseState(b, s.ID())
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if diff := cmp.Diff(s, back); diff != "" {
			t.Errorf("size %d (-written +read):\n%s", size, diff)
		}
		if !bytes.Equal(marshal(t, back), b) {
			t.Errorf("size %d: written differently the second time", size)
		}
	}
	// A name is for ever: this one is what every release gives.
	const name = "49b18e1c6cf1c69543f0d24e44be919a1a83e52d7e6aaa4bad7e928571f735e8"
	if s := (image.State{Size: 512, Blocks: []image.Digest{{}}}); s.ID().String() != name {
		t.Errorf("one sector of zeros has the name %s, want %s", s.ID(), name)
	}
	if !(image.State{}).ID().IsZero() {
		t.Error("the empty state has a name")
	}
	for _, bad := range []image.State{
		{}, {Size: 512}, {Size: 513, Blocks: make([]image.Digest, 1)}, {Size: 512, Blocks: make([]image.Digest, 2)}, {Size: -512},
		{Size: image.MaxDiskSize + 512, Blocks: make([]image.Digest, image.BlockCount(image.MaxDiskSize+512))},
	} {
		if _, err := bad.MarshalBinary(); !errors.Is(err, image.ErrState) {
			t.Errorf("a state of %d bytes with %d blocks was written: %v", bad.Size, len(bad.Blocks), err)
		}
	}
}

func TestStateBlocks(t *testing.T) {
	s := state(7*image.BlockSize + 512)
	if n := s.DataBlocks(); n != 6 {
		t.Errorf("%d blocks are not zero, want 6", n)
	}
	if s.Block(0).IsZero() || !s.Block(2).IsZero() || !s.Block(8).IsZero() || !s.Block(1<<40).IsZero() {
		t.Error("wrong blocks")
	}
	for _, size := range []int64{512, image.BlockSize, 7 * image.BlockSize, s.Size, 9 * image.BlockSize} {
		r := s.Resized(size)
		if len(r.Blocks) != image.BlockCount(size) || r.Size != size {
			t.Fatalf("resized to %d: %d blocks", size, len(r.Blocks))
		}
		for i := range r.Blocks {
			if r.Blocks[i] != s.Block(i) {
				t.Errorf("resized to %d: block %d changed", size, i)
			}
		}
		r.Blocks[0] = image.Digest{}
		if s.Blocks[0].IsZero() {
			t.Fatal("the copy is none")
		}
	}
}

func TestParseStateRefuses(t *testing.T) {
	good := marshal(t, state(3*image.BlockSize))
	edit := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(good)) }
	put64 := func(size uint64) []byte {
		return edit(func(b []byte) []byte { binary.BigEndian.PutUint64(b[16:], size); return b })
	}
	tests := map[string][]byte{
		"empty":              nil,
		"header only":        good[:24],
		"cut in the header":  good[:23],
		"cut in a digest":    good[:len(good)-1],
		"one digest less":    good[:len(good)-32],
		"one digest more":    append(bytes.Clone(good), make([]byte, 32)...),
		"one byte more":      append(bytes.Clone(good), 0),
		"another magic":      edit(func(b []byte) []byte { b[0] = 'd'; return b }),
		"version 2":          edit(func(b []byte) []byte { b[11] = 2; return b }),
		"version 0":          edit(func(b []byte) []byte { b[11] = 0; return b }),
		"another block size": edit(func(b []byte) []byte { b[13]++; return b }),
		"size 0":             put64(0),
		"no whole sectors":   put64(3*image.BlockSize - 1),
		"a block more":       put64(3*image.BlockSize + 512),
		"a block less":       put64(2 * image.BlockSize),
		"too large":          put64(image.MaxDiskSize + 512),
		"negative":           put64(1<<63 + 3*image.BlockSize),
		"all ones":           put64(1<<64 - 1),
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			if s, err := image.ParseState(b, sha256.Sum256(b)); !errors.Is(err, image.ErrState) || s.Size != 0 || s.Blocks != nil {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	// The name decides, whatever the bytes are.
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if _, err := image.ParseState(b, sha256.Sum256(good)); !errors.Is(err, image.ErrState) {
			t.Fatalf("a bit changed at %d: %v", i, err)
		}
	}
	if _, err := image.ParseState(good, image.StateID{}); !errors.Is(err, image.ErrState) {
		t.Errorf("without a name: %v", err)
	}
}

// FuzzParseState: what is accepted is written again as it was, and no input takes more memory than a few times its length.
func FuzzParseState(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for _, size := range []int64{512, image.BlockSize, 3*image.BlockSize + 512, int64(1+r.IntN(100)) * image.BlockSize} {
		b := marshal(f, state(size))
		if _, err := image.ParseState(b, sha256.Sum256(b)); err == nil {
			accepted++
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(b[:24:24], b[56:]...))
	}
	if accepted < 4 {
		f.Fatalf("%d seeds are accepted", accepted)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := image.ParseState(b, sha256.Sum256(b))
		if err != nil {
			if !errors.Is(err, image.ErrState) || s.Blocks != nil {
				t.Errorf("%+v, %v", s, err)
			}
			return
		}
		if len(s.Blocks)*32 > len(b) {
			t.Errorf("%d blocks of %d bytes", len(s.Blocks), len(b))
		}
		if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("written again it is another: %v", err)
		}
		if s.ID() != image.StateID(sha256.Sum256(b)) {
			t.Error("the name is another")
		}
	})
}
