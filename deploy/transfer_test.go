package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/faultfs"
	"disksync/layer"
)

var errMedium = fmt.Errorf("bad sector: %w", syscall.EIO)

// spoil changes a byte.
func spoil(packed []byte) []byte {
	packed[len(packed)/2] ^= 0x40
	return packed
}

// on applies f to the deliveries with the given numbers, counted from 1.
func on(numbers []int, f func(packed []byte) ([]byte, error)) func(int, image.Digest, []byte) ([]byte, error) {
	return func(n int, _ image.Digest, packed []byte) ([]byte, error) {
		if slices.Contains(numbers, n) {
			return f(packed)
		}
		return packed, nil
	}
}

func corrupt(packed []byte) ([]byte, error) { return spoil(packed), nil }
func short(packed []byte) ([]byte, error)   { return packed[:len(packed)-1], nil }
func unread([]byte) ([]byte, error)         { return nil, errMedium }

func numbers(from, to int) []int {
	var out []int
	for n := from; n <= to; n++ {
		out = append(out, n)
	}
	return out
}

// oneLayer is an image with a single version of n different blocks.
func oneLayer(t testing.TB, n int) version {
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	return newLine("one").add(t, true, disk(1, seeds...)).version(1)
}

// TestHealing: a block that a source gives wrong comes from the next source, the others stay where they are, and a source that
// only fails is given up.
func TestHealing(t *testing.T) {
	const n = 12
	v := oneLayer(t, n)
	for _, c := range []struct {
		name    string
		sources []*source // the last one is good
		each    []func(int, image.Digest, []byte) ([]byte, error)
		want    []deploy.SourceReport // without bytes
		healed  int
	}{
		{
			name: "all good", sources: []*source{newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)},
			want: []deploy.SourceReport{{Kind: deploy.USB, Blocks: n}},
		},
		{
			name: "two blocks damaged", sources: []*source{newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)},
			each:   []func(int, image.Digest, []byte) ([]byte, error){on([]int{3, 8}, corrupt)},
			want:   []deploy.SourceReport{{Kind: deploy.USB, Blocks: n - 2, Bad: 2}, {Kind: deploy.Network, Blocks: 2}},
			healed: 2,
		},
		{
			name: "bad sectors", sources: []*source{newSource(deploy.DVD, v.layers...), newSource(deploy.Network, v.layers...)},
			each:   []func(int, image.Digest, []byte) ([]byte, error){on([]int{1, 2, 5, 6, 9, 10}, unread)},
			want:   []deploy.SourceReport{{Kind: deploy.DVD, Blocks: n - 6, Bad: 6}, {Kind: deploy.Network, Blocks: 6}},
			healed: 6,
		},
		{
			name: "one after the other fails", healed: 2,
			sources: []*source{newSource(deploy.USB, v.layers...), newSource(deploy.DVD, v.layers...), newSource(deploy.Network, v.layers...)},
			each:    []func(int, image.Digest, []byte) ([]byte, error){on([]int{5, 6}, short), on([]int{1}, unread)},
			want: []deploy.SourceReport{
				{Kind: deploy.USB, Blocks: n - 2, Bad: 2}, {Kind: deploy.DVD, Blocks: 1, Bad: 1}, {Kind: deploy.Network, Blocks: 1},
			},
		},
		{
			name: "five in a row", sources: []*source{newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)},
			each: []func(int, image.Digest, []byte) ([]byte, error){on(numbers(1, n), unread)},
			want: []deploy.SourceReport{
				{Kind: deploy.USB, Bad: 5, GivenUp: "5 blocks in a row were bad, the last one: bad sector: input/output error"},
				{Kind: deploy.Network, Blocks: n},
			},
			healed: 5,
		},
		{
			name: "this machine is not given up", sources: []*source{newSource(deploy.Local, v.layers...), newSource(deploy.Network, v.layers...)},
			each:   []func(int, image.Digest, []byte) ([]byte, error){on(numbers(2, n-1), unread)},
			want:   []deploy.SourceReport{{Kind: deploy.Local, Blocks: 2, Bad: n - 2}, {Kind: deploy.Network, Blocks: n - 2}},
			healed: n - 2,
		},
		{
			name: "the Synchronizer has another try", sources: []*source{newSource(deploy.Network, v.layers...)},
			each:   []func(int, image.Digest, []byte) ([]byte, error){on(numbers(1, n), corrupt)},
			want:   []deploy.SourceReport{{Kind: deploy.Network, Blocks: n, Bad: n}},
			healed: n,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fsys := newFS()
				s := openStore(t, fsys)
				var sources []deploy.Source
				for i, src := range c.sources {
					if i < len(c.each) {
						src.each = c.each[i]
					}
					sources = append(sources, src)
				}
				tally := deploy.NewTally()
				got, err := s.Install(t.Context(), v.layers[0].Index, sources, tally)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(deploy.SourceReport{}, "Name", "Bytes")); diff != "" {
					t.Error(diff)
				}
				p := tally.Progress()
				if p.Healed != c.healed {
					t.Errorf("%d blocks healed, want %d", p.Healed, c.healed)
				}
				for _, r := range got {
					if p.Bytes[r.Kind] != r.Bytes {
						t.Errorf("%s: the tally has %d bytes, the report %d", r.Kind, p.Bytes[r.Kind], r.Bytes)
					}
				}
				if err := sameContent(fsys, image.VHDUUID(v.state.ID()), v.disk); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// odd is a source with a Fetch of its own.
type odd struct {
	*source
	fetch func(ctx context.Context, s *source, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error
}

func (o *odd) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	return o.fetch(ctx, o.source, blocks, deliver)
}

func (s *source) give(d image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	f := s.frames[d]
	return deliver(d, f, s.held[d].frame(f), nil)
}

// TestOddSources: whatever a source does, the transfer ends, with every block from the source behind it that is needed, and leaves
// no goroutine behind.
func TestOddSources(t *testing.T) {
	const n = 8
	v := oneLayer(t, n)
	type deliverFunc = func(image.Digest, layer.Frame, []byte, error) error
	for _, c := range []struct {
		name string
		// left is how many blocks the second source has to give; -1: it depends.
		left  int
		fetch func(ctx context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error
	}{
		{"delivers nothing", n, func(context.Context, *source, []image.Digest, deliverFunc) error { return nil }},
		{"leaves one out", 1, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks[1:] {
				if err := s.give(d, deliver); err != nil {
					return err
				}
			}
			return nil
		}},
		{"leaves one out and gives another twice", 1, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range append([]image.Digest{blocks[1]}, blocks[1:]...) {
				if err := s.give(d, deliver); err != nil {
					return err
				}
			}
			return nil
		}},
		{"gives everything twice", 0, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for range 2 {
				for _, d := range blocks {
					if err := s.give(d, deliver); err != nil {
						return err
					}
				}
			}
			return nil
		}},
		{"fails a block and gives it afterwards", 1, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			if err := deliver(blocks[0], s.frames[blocks[0]], nil, errMedium); err != nil {
				return err
			}
			for _, d := range blocks {
				if err := s.give(d, deliver); err != nil {
					return err
				}
			}
			return nil
		}},
		{"gives what was not asked for", 0, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			if err := deliver(image.Digest{1}, layer.Frame{Digest: image.Digest{1}, Codec: layer.Stored, Length: block}, make([]byte, block), nil); err != nil {
				return err
			}
			for _, d := range blocks {
				if err := s.give(d, deliver); err != nil {
					return err
				}
			}
			return nil
		}},
		{"passes one block off as another", n, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for i, d := range blocks {
				other := blocks[(i+1)%len(blocks)]
				f := s.frames[other]
				if err := deliver(d, f, s.held[other].frame(f), nil); err != nil {
					return err
				}
			}
			return nil
		}},
		{"has codecs that nobody knows", n, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks {
				f := s.frames[d]
				f.Codec = 77
				if err := deliver(d, f, s.held[d].frame(f), nil); err != nil {
					return err
				}
			}
			return nil
		}},
		{"goes away in the middle", n - 3, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks[:3] {
				if err := s.give(d, deliver); err != nil {
					return err
				}
			}
			return errors.New("gone")
		}},
		{"delivers from many goroutines", 0, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			var wg sync.WaitGroup
			for _, d := range blocks {
				wg.Go(func() { _ = s.give(d, deliver) })
			}
			wg.Wait()
			return nil
		}},
		{"delivers when Fetch has ended", -1, func(_ context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks {
				go func() { _ = s.give(d, deliver) }()
			}
			return nil
		}},
		{"hangs until it is told to stop", n, func(ctx context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks[:5] {
				if err := deliver(d, s.frames[d], nil, errMedium); err != nil {
					return err
				}
			}
			<-ctx.Done() // five failures in a row end it
			return ctx.Err()
		}},
		{"gives a block that has moved on", -1, func(ctx context.Context, s *source, blocks []image.Digest, deliver deliverFunc) error {
			for _, d := range blocks[:5] {
				if err := deliver(d, s.frames[d], nil, errMedium); err != nil {
					break
				}
			}
			for _, d := range blocks {
				if err := s.give(d, deliver); err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fsys := newFS()
				s := openStore(t, fsys)
				good := newSource(deploy.Network, v.layers...)
				first := &odd{source: newSource(deploy.USB, v.layers...), fetch: c.fetch}
				tally := deploy.NewTally()
				if _, err := s.Install(t.Context(), v.layers[0].Index, []deploy.Source{first, good}, tally); err != nil {
					t.Fatal(err)
				}
				if c.left >= 0 && good.total() != c.left {
					t.Errorf("the source behind gave %d blocks, want %d", good.total(), c.left)
				}
				if p := tally.Progress(); p.PlanDone != int64(n*block) {
					t.Errorf("%d bytes of work counted, there were %d", p.PlanDone, n*block)
				}
				if err := sameContent(fsys, image.VHDUUID(v.state.ID()), v.disk); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestNobodyHasIt: blocks that no source can give are named with the reason of the source that came last, everything else is
// kept, and the next run fetches them alone.
func TestNobodyHasIt(t *testing.T) {
	const n = 6
	v := oneLayer(t, n)
	x := v.layers[0].Index
	for _, c := range []struct {
		name     string
		sources  func() []deploy.Source
		missing  int
		is       error
		kept     int
		otherErr string
	}{
		{"no source at all", func() []deploy.Source { return nil }, n, nil, 0, "no source has it"},
		{"everybody gives them wrong", func() []deploy.Source {
			usb, net := newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)
			bad := map[image.Digest]bool{v.state.Blocks[1]: true, v.state.Blocks[4]: true}
			usb.each = func(_ int, d image.Digest, p []byte) ([]byte, error) {
				if bad[d] {
					return spoil(p), nil
				}
				return p, nil
			}
			net.each = usb.each
			return []deploy.Source{usb, net}
		}, 2, layer.ErrCorrupt, n - 2, ""},
		// The medium's damage must not be reported as the Synchronizer's.
		{"the Synchronizer went away before", func() []deploy.Source {
			usb, net := newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)
			gone := make(chan struct{})
			delete(usb.frames, v.state.Blocks[0])
			usb.each = func(_ int, d image.Digest, p []byte) ([]byte, error) {
				<-gone
				if d == v.state.Blocks[1] {
					return spoil(p), nil
				}
				return p, nil
			}
			dead := &odd{source: net, fetch: func(context.Context, *source, []image.Digest, func(image.Digest, layer.Frame, []byte, error) error) error {
				defer close(gone)
				return errors.New("the line is dead")
			}}
			return []deploy.Source{usb, dead}
		}, 2, nil, n - 2, "the line is dead"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fsys := newFS()
				s := openStore(t, fsys)
				_, err := s.Install(t.Context(), x, c.sources(), deploy.NewTally())
				missing, ok := errors.AsType[*deploy.MissingError](err)
				if !ok || missing.Blocks != c.missing {
					t.Fatalf("got %v, want %d missing blocks", err, c.missing)
				}
				if c.is != nil && !errors.Is(err, c.is) || c.otherErr != "" && !errorSays(err, c.otherErr) {
					t.Errorf("reason %v, want %v %s", err, c.is, c.otherErr)
				}
				if ok, err := s.Installed(v.state.ID()); ok || err != nil {
					t.Fatalf("installed: %v, %v", ok, err)
				}
				net, tally := newSource(deploy.Network, v.layers...), deploy.NewTally()
				if _, err := s.Install(t.Context(), x, []deploy.Source{net}, tally); err != nil {
					t.Fatal(err)
				}
				if _, resumed, _ := tally.Counts(); resumed != c.kept || net.total() != n-c.kept {
					t.Errorf("%d blocks kept, %d fetched; want %d and %d", resumed, net.total(), c.kept, n-c.kept)
				}
				if err := sameContent(fsys, image.VHDUUID(v.state.ID()), v.disk); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestFailingDiskEndsTransfer: when this machine's disk fails, that is the end at once, for all sources, and no goroutine is left.
func TestFailingDiskEndsTransfer(t *testing.T) {
	v := oneLayer(t, 16) // more than may be in flight
	for _, at := range []int{1, 3, 9, 20, 30} {
		synctest.Test(t, func(t *testing.T) {
			fsys := newFS()
			s := openStore(t, fsys)
			fsys.Arm(at, faultfs.FailBefore)
			usb, net := newSource(deploy.USB, v.layers...), newSource(deploy.Network, v.layers...)
			_, err := s.Install(t.Context(), v.layers[0].Index, []deploy.Source{usb, net}, deploy.NewTally())
			if !errors.Is(err, faultfs.ErrInjected) {
				t.Fatalf("at step %d: %v", at, err)
			}
			if net.total() > 0 {
				t.Errorf("at step %d: %d blocks were fetched in vain", at, net.total())
			}
		})
	}
}
