package endpoint_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
)

// piece is one layer of an image, as a caller of the original's interface has to know it.
func (w *world) piece(name string, v int) endpoint.LayerInfo {
	w.Helper()
	im, err := w.lab.Admin.Image(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	d := im.Versions[v-1].Disks[0]
	return endpoint.LayerInfo{UUID: image.VHDUUID(d.State), URL: w.front.URL + "/v1/layers/" + d.Layer.String()}
}

// TestGroups: an operation that is put together piece by piece, in the original's way, installs its layers, and nothing that the
// manifest does not say.
func TestGroups(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2), disk(1, 3))
	base, leaf := w.piece("win7", 1), w.piece("win7", 2)
	id := leaf.UUID
	g := w.e.NewGroup()
	if s := g.Status(); s.State != endpoint.Stopped || s.Active || len(s.Disks) != 0 {
		t.Errorf("a new group %+v", s)
	}
	wantReason := func(what string, err error) {
		t.Helper()
		if code(t, err) != "DS-USAGE" || !strings.HasPrefix(err.Error(), "invalid-request: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantReason("an upload", g.AddDisk(id, "up"))
	wantReason("sideways", g.AddDisk(id, "sideways"))
	wantReason("no disk yet", g.AddLayer(id, leaf))
	if err := g.AddDisk(id, "down"); err != nil {
		t.Fatal(err)
	}
	wantReason("the disk twice", g.AddDisk(id, "down"))
	layer := strings.TrimPrefix(leaf.URL, w.front.URL)
	for _, u := range []string{
		"", "x", "https://elsewhere" + layer, "http" + strings.TrimPrefix(leaf.URL, "https"), w.lab.URL + layer, leaf.URL + "?x", leaf.URL + "#x", leaf.URL + "/x", leaf.URL[:len(leaf.URL)-1],
		w.front.URL + "/v1/images/win7", w.front.URL + "/v1/layers/", "file:///etc/passwd", "https://alice@" + strings.TrimPrefix(leaf.URL, "https://"),
		w.front.URL + "/v2" + strings.TrimPrefix(layer, "/v1"),
	} {
		wantReason("URL "+u, g.AddLayer(id, endpoint.LayerInfo{UUID: id, URL: u}))
		if u != "" {
			wantReason("transfer URL "+u, g.AddLayer(id, endpoint.LayerInfo{UUID: id, URL: leaf.URL, TransferURL: u}))
		}
	}
	wantReason("another transfer URL", g.AddLayer(id, endpoint.LayerInfo{UUID: id, URL: leaf.URL, TransferURL: base.URL}))
	leaf.TransferURL = leaf.URL
	if err := g.AddLayer(id, leaf); err != nil {
		t.Fatal(err)
	}
	wantReason("the layer twice", g.AddLayer(id, leaf))
	if err := g.AddLayer(id, base); err != nil {
		t.Fatal(err)
	}
	w.restart() // a group outlives the process
	g, err := w.e.Operation(g.ID())
	if err != nil {
		t.Fatal(err)
	}
	if s := g.Status(); len(s.Disks) != 1 || len(s.Disks[0].Layers) != 2 || s.Disks[0].Layers[0].Ordinal != 1 || s.Disks[0].Layers[1].UUID != base.UUID {
		t.Fatalf("after a restart %+v", s)
	}
	if err := g.Resume(); err != nil {
		t.Fatal(err)
	}
	s := w.wait(g)
	if err := s.Outcome(); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Disks[0].Layers {
		if l.State != endpoint.Finished {
			t.Errorf("layer %d is %s", l.Ordinal, l.State)
		}
		if _, err := os.Stat(filepath.Join(w.dir, deploy.Path(l.UUID))); err != nil {
			t.Error(err)
		}
	}
	if vms, err := w.e.VMs(); err != nil || len(vms) != 0 {
		t.Errorf("there are VMs: %v, %v", vms, err)
	}
	if err := w.e.NewGroup().Delete(t.Context()); err != nil {
		t.Error(err)
	}
	// The editing of what is no group, or runs.
	o := w.start(endpoint.Request{Kind: endpoint.Verify, VM: "nobody"})
	w.wait(o)
	if err := o.AddDisk(id, "down"); code(t, err) != "DS-BUSY" || !strings.HasPrefix(err.Error(), "invalid-image-state: ") {
		t.Error(err)
	}
}

// TestWrongGroups: what a caller says of layers is compared with the manifest before a byte moves.
func TestWrongGroups(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.e.NewGroup().AddLayer(image.UUID{1}, endpoint.LayerInfo{}); code(t, err) != "DS-USAGE" {
		t.Errorf("not registered: %v", err)
	}
	w.publish("win7", disk(1, 2), disk(1, 3))
	w.version("secret", disk(8, 9)) // nobody's
	w.logIn()
	base, leaf, secret := w.piece("win7", 1), w.piece("win7", 2), w.piece("secret", 1)
	strange := leaf
	strange.UUID = image.UUID{9, 6: 0x40, 8: 0x80}
	for _, c := range []struct {
		name   string
		layers []endpoint.LayerInfo
		want   string
		reason endpoint.Reason
	}{
		{"no layer", nil, "DS-USAGE", endpoint.ReasonInvalidRequest},
		{"a layer that is not for the user", []endpoint.LayerInfo{secret}, "DS-NOT-ASSIGNED", endpoint.ReasonFileNotExists},
		{"another uuid", []endpoint.LayerInfo{strange}, "DS-USAGE", endpoint.ReasonInvalidRequest},
		{"the parent first", []endpoint.LayerInfo{base, leaf}, "DS-USAGE", endpoint.ReasonInvalidRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			g := w.e.NewGroup()
			if err := g.AddDisk(leaf.UUID, "down"); err != nil {
				t.Fatal(err)
			}
			for _, l := range c.layers {
				if err := g.AddLayer(leaf.UUID, l); err != nil {
					t.Fatal(err)
				}
			}
			if err := g.Resume(); err != nil {
				t.Fatal(err)
			}
			s := w.wait(g)
			if got := code(t, s.Outcome()); got != c.want || s.State != endpoint.Failed || s.Disks[0].Reason != c.reason {
				t.Errorf("%s, reason %s; want %s, %s: %v", got, s.Disks[0].Reason, c.want, c.reason, s.Problem)
			}
			w.nothingInstalled()
		})
	}
}

// TestAggregate: the state of a whole is that of the part that matters most, and a whole without parts has not begun.
func TestAggregate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		parts []endpoint.State
		want  endpoint.State
	}{
		{nil, endpoint.Stopped},
		{[]endpoint.State{endpoint.Finished, endpoint.Finished}, endpoint.Finished},
		{[]endpoint.State{endpoint.Finished, endpoint.Stopped}, endpoint.Stopped},
		{[]endpoint.State{endpoint.Paused, endpoint.Stopped}, endpoint.Paused},
		{[]endpoint.State{endpoint.Paused, endpoint.ServerChecksum}, endpoint.ServerChecksum},
		{[]endpoint.State{endpoint.AdmctlStalled, endpoint.ServerChecksum}, endpoint.AdmctlStalled},
		{[]endpoint.State{endpoint.AdmctlStalled, endpoint.NetworkStalled}, endpoint.NetworkStalled},
		{[]endpoint.State{endpoint.InProgress, endpoint.NetworkStalled, endpoint.Finished}, endpoint.InProgress},
		{[]endpoint.State{endpoint.InProgress, endpoint.Failed, endpoint.Finished}, endpoint.Failed},
	} {
		if got := endpoint.Aggregate(c.parts); got != c.want {
			t.Errorf("%v make %s, want %s", c.parts, got, c.want)
		}
	}
}
