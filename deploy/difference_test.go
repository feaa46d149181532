package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"disksync/deploy"
	"disksync/image"
	"disksync/layer"
)

type bytesDisk struct{ *bytes.Reader }

// refer makes the layer that leads from one version to another and refers to the former.
func refer(t testing.TB, from, to version) made {
	t.Helper()
	var b bytes.Buffer
	res, err := layer.Encode(t.Context(), &b, from.state, bytesDisk{bytes.NewReader(to.disk)}, layer.EncodeOptions{FromDisk: bytes.NewReader(from.disk)})
	if err != nil {
		t.Fatal(err)
	}
	if !res.Index.Refers() {
		t.Fatalf("layer %s refers to nothing; the test shows nothing", res.Index.ID().Short())
	}
	return made{res.Index, b.Bytes()}
}

// shuffled returns a disk with much of what d has, some of it in other places.
func shuffled(r *rand.Rand, d []byte) []byte {
	b := bytes.Clone(d)
	for range 6 {
		n := 4096 * (1 + r.IntN(60))
		to, from := 4096*r.IntN((len(d)-n)/4096), 4096*r.IntN((len(d)-n)/4096)
		switch r.IntN(3) {
		case 0:
			copy(b[to:], d[from:from+n])
		case 1:
			noise(b[to:to+3000], r.Uint64())
		default:
			clear(b[to : to+n])
		}
	}
	// There is always something new, and in several places.
	fresh := make([]byte, 30_000)
	noise(fresh, r.Uint64())
	for range 3 {
		copy(b[r.IntN(len(b)-len(fresh)):], fresh)
	}
	return b
}

// TestDifferences: layers that refer to the disk before give the right disks: one after the other or by a short cut, from sources that
// give bad bytes, lack blocks and end early, with interruptions in between.
func TestDifferences(t *testing.T) {
	levels := 0
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 7))
		l := newLine("differences")
		d := make([]byte, 4*block+512*3)
		noise(d[:3*block], seed)
		l.add(t, true, d)
		versions := []version{l.version(1)}
		for range 3 {
			d = shuffled(r, d)
			next := version{disk: d, state: stateOf(d)}
			next.layers = append(append([]made(nil), versions[len(versions)-1].layers...), refer(t, versions[len(versions)-1], next))
			versions = append(versions, next)
			levels = max(levels, next.layers[len(next.layers)-1].Levels())
		}
		last := versions[len(versions)-1]
		short := version{disk: last.disk, state: last.state, layers: []made{versions[0].layers[0], refer(t, versions[0], last)}}
		for _, want := range []version{last, short} {
			fsys := newFS()
			if err := interrupted(t, r, openStore(t, fsys), want); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			got, err := readVHD(fsys, image.VHDUUID(want.state.ID()))
			if err != nil || !bytes.Equal(got, want.disk) {
				t.Errorf("seed %d: over %d layers it is another disk, %v", seed, len(want.layers), err)
			}
		}
	}
	if levels < 2 {
		t.Error("no frame refers to another block of its own layer; the test shows nothing")
	}
}

// interrupted installs a version from a medium that is no good and from the network, and is stopped now and then.
func interrupted(t *testing.T, r *rand.Rand, s *deploy.Store, v version) error {
	for attempt := range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		usb, net := newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)
		stopAt, end := 1+r.IntN(3), 1+r.IntN(4)
		usb.each = func(n int, _ image.Digest, packed []byte) ([]byte, error) {
			if n%2 == 0 {
				packed[len(packed)/2] ^= 4
			}
			return packed, nil
		}
		usb.after = func(n int) error {
			if n == end {
				return errors.New("pulled out")
			}
			return nil
		}
		net.after = func(n int) error {
			if n == stopAt && attempt < 6 {
				cancel()
			}
			return nil
		}
		err := installAll(ctx, s, v, deploy.NewTally(), usb, net)
		cancel()
		if err == nil || !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.New("it never came to an end")
}

// TestDamagedBase: when the installed disk that a difference refers to has changed, that is said, and neither are the sources blamed
// nor is anything installed.
func TestDamagedBase(t *testing.T) {
	l := newLine("base")
	d := make([]byte, 3*block)
	noise(d, 1)
	l.add(t, true, d)
	next := shuffled(rand.New(rand.NewPCG(1, 1)), d)
	v2 := version{disk: next, state: stateOf(next)}
	x := refer(t, l.version(1), v2)
	v2.layers = []made{l.version(1).layers[0], x}
	fsys := newFS()
	s := openStore(t, fsys)
	base := image.VHDUUID(l.version(1).state.ID())
	net := newSource(deploy.Network, v2.layers...)
	if err := installAll(t.Context(), s, l.version(1), deploy.NewTally(), net); err != nil {
		t.Fatal(err)
	}
	// One bit of each block is wrong now.
	for i := range 3 {
		bad := bytes.Clone(d[i*block:][:block])
		for at := 0; at < block; at += 4096 {
			bad[at] ^= 1
		}
		writeDisk(t, fsys, base, int64(i)*block, bad)
	}
	reports, err := s.Install(t.Context(), x.Index, []deploy.Source{net}, deploy.NewTally())
	if !errors.Is(err, layer.ErrFrom) {
		t.Errorf("installed on a damaged disk: %v", err)
	}
	for _, r := range reports {
		if r.Bad > 0 {
			t.Errorf("%s is blamed for %d blocks", r.Name, r.Bad)
		}
	}
	if ok, err := s.Installed(v2.state.ID()); ok || err != nil {
		t.Errorf("installed: %v, %v", ok, err)
	}
}
