package deploy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/faultfs"
	"disksync/layer"
	"disksync/vhd"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !isSet("rapid.checks") && raceEnabled && !soak() {
		if err := flag.Set("rapid.checks", "20"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func isSet(name string) bool {
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// drawDisk draws a disk of a few blocks. Seeds come from a small range, so that blocks are alike within a disk and between
// versions; sizes go up and down.
func drawDisk(rt *rapid.T) []byte {
	seeds := rapid.SliceOfN(rapid.Uint64Range(0, 4), 1, 4).Draw(rt, "seeds")
	return disk(rapid.IntRange(0, 2).Draw(rt, "sectors"), seeds...)
}

func drawLine(t testing.TB, rt *rapid.T) *line {
	l := newLine("drawn")
	for range rapid.IntRange(1, 3).Draw(rt, "versions") {
		d := drawDisk(rt)
		if n := len(l.versions); n > 0 && slices.Equal(l.versions[n-1].disk, d) {
			continue
		}
		l.add(t, rapid.IntRange(0, 3).Draw(rt, "full") == 0, d)
	}
	return l
}

// drawSource draws a source that has some of a version's blocks and gives some of them wrong, or goes away.
func drawSource(rt *rapid.T, kind string, v version, cancel func()) *source {
	s := newSource(kind, v.layers...)
	for _, d := range slices.SortedFunc(maps.Keys(s.frames), image.Digest.Compare) {
		if rapid.IntRange(0, 3).Draw(rt, "lacks") == 0 {
			delete(s.frames, d)
		}
	}
	faults := rapid.SliceOfN(rapid.IntRange(0, 5), 1, 10).Draw(rt, "faults")
	s.each = func(n int, _ image.Digest, packed []byte) ([]byte, error) {
		switch faults[n%len(faults)] {
		case 0:
			return spoil(packed), nil
		case 1:
			return nil, errMedium
		case 2:
			return packed[:len(packed)/2], nil
		}
		return packed, nil
	}
	dies, cancels := rapid.IntRange(0, 12).Draw(rt, "dies"), rapid.IntRange(0, 12).Draw(rt, "cancels")
	s.after = func(n int) error {
		if n == cancels {
			cancel()
		}
		if n == dies {
			return errors.New("gone")
		}
		return nil
	}
	return s
}

// TestAnySchedule: whatever interrupts an installation, and whatever its sources do, it ends with the same bytes as one that
// nothing disturbs; and the last source is asked for what is missing, once, and for nothing else.
func TestAnySchedule(t *testing.T) {
	interrupted, finished := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		l := drawLine(t, rt)
		v := l.versions[len(l.versions)-1]
		fsys := newFS()
		s := openStore(t, fsys)
		if other := rapid.IntRange(0, 2).Draw(rt, "another disk"); other > 0 {
			x, st := encode(t, image.State{}, drawDisk(rt))
			if _, err := s.Install(t.Context(), x.Index, []deploy.Source{newSource(deploy.USB, x)}, deploy.NewTally()); err != nil {
				rt.Fatal(err)
			}
			if ok, err := s.Installed(st.ID()); !ok || err != nil {
				rt.Fatalf("installed: %v, %v", ok, err)
			}
		}
		for range rapid.IntRange(0, 4).Draw(rt, "interruptions") {
			var cancel context.CancelFunc
			var sources []deploy.Source
			for _, kind := range deploy.Kinds()[1:] {
				if rapid.Bool().Draw(rt, kind) {
					sources = append(sources, drawSource(rt, kind, v, func() { cancel() }))
				}
			}
			if rapid.Bool().Draw(rt, "power goes") {
				fsys.Arm(rapid.IntRange(1, 60).Draw(rt, "step"), faultfs.PowerLoss)
			}
			var err error
			synctest.Test(t, func(t *testing.T) { // where a deadlock or a goroutine that stays shows at once
				var ctx context.Context
				ctx, cancel = context.WithCancel(context.Background())
				defer cancel()
				err = installAll(ctx, s, v, deploy.NewTally(), sources...)
			})
			if err != nil {
				interrupted++
			} else {
				finished++
			}
			if fsys.Fired() {
				keep := rapid.SampledFrom([]float64{0, 0.5, 1}).Draw(rt, "keep")
				fsys = fsys.Restart(keep, rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)))
			}
			fsys.Arm(0, faultfs.None)
			s = openStore(t, fsys)
		}
		for _, m := range v.layers {
			finishLayer(t, rt, s, fsys, m)
			if err := order(fsys); err != nil {
				rt.Fatal(err)
			}
		}
		for i, x := range l.versions {
			if i != len(l.versions)-1 && !slices.ContainsFunc(v.layers, func(m made) bool { return m.To() == x.state.ID() }) {
				continue // not on the way
			}
			if err := sameContent(fsys, image.VHDUUID(x.state.ID()), x.disk); err != nil {
				rt.Fatalf("version %d: %v", x.number, err)
			}
			st, err := s.State(x.state.ID())
			if err != nil {
				rt.Fatal(err)
			}
			if diff := cmp.Diff(x.state, st); diff != "" {
				rt.Fatal(diff)
			}
		}
	})
	t.Logf("%d installations were interrupted, %d were not", interrupted, finished)
	if interrupted == 0 || finished == 0 {
		t.Error("that is not a mixture")
	}
}

// finishLayer installs a layer from what is on the machine and an honest source, which must be asked for the rest only.
func finishLayer(t *testing.T, rt *rapid.T, s *deploy.Store, fsys *faultfs.FS, m made) {
	if ok, err := s.Installed(m.To()); err != nil {
		rt.Fatal(err)
	} else if ok {
		return
	}
	missing, err := missingOf(fsys, m)
	if err != nil {
		rt.Fatal(err)
	}
	local, err := s.NewLocal(missing)
	if err != nil {
		rt.Fatal(err)
	}
	want := map[image.Digest]int{}
	for d := range missing {
		if _, ok := local.Holds(d); !ok {
			want[d] = 1
		}
	}
	net := newSource(deploy.Network, m)
	if _, err := s.Install(t.Context(), m.Index, []deploy.Source{local, net}, deploy.NewTally()); err != nil {
		rt.Fatal(err)
	}
	if diff := cmp.Diff(want, net.asked); diff != "" {
		rt.Fatalf("the last source was asked for something else than what is missing: %s", diff)
	}
}

// missingOf returns the blocks of a layer that are not, or not rightly, in what an earlier run has left.
func missingOf(fsys *faultfs.FS, m made) (map[image.Digest]bool, error) {
	missing := map[image.Digest]bool{}
	for i := range m.Len() {
		if f := m.Frame(i); f.Codec != layer.Zero {
			missing[f.Digest] = true
		}
	}
	f, err := fsys.Open(fmt.Sprintf("disks/%s.vhd.part", image.VHDUUID(m.To())))
	if err != nil {
		return missing, nil //nolint:nilerr // nothing is left
	}
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	leaf, err := vhd.Open(f, size, vhd.Salvage())
	if err != nil || leaf.Size() != m.Size() {
		return missing, nil //nolint:nilerr // of no use
	}
	members := []*vhd.Image{leaf}
	if leaf.Type() == vhd.Differencing {
		c, closeAll, err := openVHD(fsys, leaf.ParentUUID())
		defer closeAll()
		if err != nil {
			return nil, err
		}
		members = append(members, c.Members()...)
	}
	c, err := vhd.NewChain(members...)
	if err != nil {
		return nil, err
	}
	good := map[image.Digest]bool{}
	bad := map[image.Digest]bool{}
	b := make([]byte, block)
	for i := range m.Len() {
		fr := m.Frame(i)
		n := min(block, c.Size()-int64(fr.Block)*block)
		clear(b[n:])
		if _, err := c.ReadAt(b[:n], int64(fr.Block)*block); err != nil {
			return nil, err
		}
		if leaf.Allocated(fr.Block) && image.SumBlock(b) == fr.Digest {
			good[fr.Digest] = true
		} else {
			bad[fr.Digest] = true
		}
	}
	for d := range good {
		if !bad[d] {
			delete(missing, d)
		}
	}
	return missing, nil
}
