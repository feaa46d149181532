package deploy_test

import (
	"context"
	"errors"
	"testing"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/testkit"
	"disksync/vhd"
)

// lookAt opens a VHD file that may be being built; nil: there is none that can be read.
func lookAt(t testing.TB, fsys durable.FS, name string) *vhd.Image {
	t.Helper()
	f, err := fsys.Open("disks/" + name)
	if err != nil {
		return nil
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	m, err := vhd.Open(f, size, vhd.Salvage())
	if err != nil {
		return nil
	}
	return m
}

// TestRoomAhead: a block is in the part's table soon after it was written. A full image takes room ahead, which the next run's plan counts
// as its own where the process was killed, and which is given back when a run ends in another way.
func TestRoomAhead(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3, 4)
	v := h.l.version(1)
	id := image.VHDUUID(v.state.ID())
	whole, part := id.String()+".vhd", id.String()+".vhd.part"
	media := []*cache.Inventory{medium(t, cache.USB, v.layers[0].file)}
	plan := func(fsys durable.FS) (*deploy.Job, *deploy.Plan) {
		j := &deploy.Job{Store: openStore(t, fsys), Manifest: v.signed, Media: media, Tally: deploy.NewTally()}
		p, err := j.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return j, p
	}
	_, first := plan(h.fsys.Clone())
	src := newSource(deploy.USB, v.layers...)
	ctx, cancel := context.WithCancel(t.Context())
	var killed *faultfs.FS
	src.after = func(n int) error {
		if n < 2 {
			return nil
		}
		testkit.Until(t, "two blocks are in the table", func() bool {
			m, n := lookAt(t, h.fsys, part), 0
			for i := range v.state.Blocks {
				if m != nil && m.Allocated(i) {
					n++
				}
			}
			return n == 2
		})
		killed = h.fsys.Clone()
		cancel()
		return nil
	}
	if _, err := h.s.Install(ctx, v.layers[0].Index, []deploy.Source{src}, deploy.NewTally()); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	if spare := lookAt(t, h.fsys, part).Spare(); spare != 0 {
		t.Errorf("%d bytes are still taken", spare)
	}
	spare := lookAt(t, killed, part).Spare()
	if spare <= 0 {
		t.Error("no room was taken ahead")
	}
	if size := lookAt(t, killed, part).Size(); spare > first.Needed-size/2 {
		t.Errorf("%d bytes were taken ahead, for a plan that had counted %d in all", spare, first.Needed)
	}
	const rest = 2 * (block + 4096)
	tables := 64<<10 + 4*int64(len(v.state.Blocks))
	for name, c := range map[string]struct {
		fsys  *faultfs.FS
		taken int64 // of what the rest needs
	}{"interrupted": {h.fsys, 0}, "killed": {killed, min(spare, rest)}} {
		j, p := plan(c.fsys)
		if want := first.Needed - rest - tables - c.taken; p.Here != 2 || p.Needed != want {
			t.Errorf("%s: %d blocks are here; %d bytes are needed, want %d", name, p.Here, p.Needed, want)
		}
		if _, err := j.Run(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := sameContent(c.fsys, id, v.disk); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if spare := lookAt(t, c.fsys, whole).Spare(); spare != 0 {
			t.Errorf("%s: %d bytes are still taken", name, spare)
		}
	}
}
