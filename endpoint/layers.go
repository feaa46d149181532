package endpoint

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"disksync/api"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/problem"
)

// The original's interface builds an operation piece by piece: a group, its disks, and for each disk its images, the newest
// first. Here a group is an operation, and an image is a layer that some version which is meant for the user needs: its
// manifest, not the caller, says what the bytes must be.

// NewGroup makes an operation without disks.
func (e *Engine) NewGroup() *Operation {
	return e.newOperation(Status{Request: Request{Kind: Layers}})
}

// invalidRequest is an error with the original's failure string.
func invalidRequest(format string, args ...any) error {
	return problem.New("DS-USAGE", problem.Usage, nil, string(ReasonInvalidRequest)+": "+fmt.Sprintf(format, args...), "nothing was changed",
		"correct the call; what it wants is said there")
}

// AddDisk adds a disk to a group that does not run.
func (o *Operation) AddDisk(id image.UUID, direction string) error {
	switch {
	case direction == "up":
		return invalidRequest("uploads are not started this way")
	case direction != "down":
		return invalidRequest("direction %q: want up or down", direction)
	}
	return o.edit(func(s *Status) error {
		for _, d := range s.Disks {
			if d.UUID == id {
				return invalidRequest("the group has disk %s already", id)
			}
		}
		s.Disks = append(s.Disks, DiskInfo{UUID: id, Direction: direction})
		return nil
	})
}

// AddLayer adds an image to a disk. Its URL must be that of a layer of the Synchronizer that this endpoint is registered with,
// and its uuid that of the VHD which the layer becomes, when the engine knows it by then.
func (o *Operation) AddLayer(disk image.UUID, l LayerInfo) error {
	reg := o.e.Registered()
	if reg == nil {
		return invalidRequest("this endpoint is not registered with a Synchronizer")
	}
	id, err := parseLayerURL(reg.URL, l.URL)
	if err != nil {
		return err
	}
	if l.TransferURL != "" {
		if other, err := parseLayerURL(reg.URL, l.TransferURL); err != nil || other != id {
			return invalidRequest("the transfer URL names something else than the image URL")
		}
	}
	return o.edit(func(s *Status) error {
		for i := range s.Disks {
			d := &s.Disks[i]
			if d.UUID != disk {
				continue
			}
			for _, had := range d.Layers {
				if had.UUID == l.UUID {
					return invalidRequest("the disk has image %s already", l.UUID)
				}
			}
			l.Layer, l.State, l.Ordinal = id, Stopped, len(d.Layers)+1
			d.Layers = append(d.Layers, l)
			return nil
		}
		return invalidRequest("the group has no disk %s", disk)
	})
}

// edit changes a group that was built piece by piece and does not run.
func (o *Operation) edit(do func(s *Status) error) error {
	o.mu.Lock()
	if o.status.Request.Kind != Layers || o.done != nil {
		o.mu.Unlock()
		return problem.New("DS-BUSY", problem.Busy, nil, string(ReasonInvalidState)+": the group was started or belongs to another operation",
			"nothing was changed", "stop it first, or make another group")
	}
	o.mu.Unlock()
	var err error
	o.change(true, func(s *Status) {
		err = do(s)
		s.State = Stopped
	})
	return err
}

// parseLayerURL reads the address of a layer of the Synchronizer at base.
func parseLayerURL(base, s string) (image.LayerID, error) {
	b, err := url.Parse(base)
	if err != nil {
		return image.LayerID{}, err
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != b.Scheme || u.Host != b.Host || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return image.LayerID{}, invalidRequest("%q is not an address of the registered Synchronizer %s", s, base)
	}
	text, ok := strings.CutPrefix(u.Path, strings.TrimSuffix(b.Path, "/")+"/"+api.Version+"/layers/")
	if !ok {
		return image.LayerID{}, invalidRequest("%q names no layer", s)
	}
	id, err := image.ParseLayerID(text)
	if err != nil {
		return id, invalidRequest("%q names no layer", s)
	}
	return id, nil
}

// runLayers installs the layers of a group. There is no VM at the end, just the VHDs.
func (o *Operation) runLayers(ctx context.Context) error {
	disks := o.Status().Disks
	if len(disks) == 0 || slices.ContainsFunc(disks, func(d DiskInfo) bool { return len(d.Layers) == 0 }) {
		return invalidRequest("the group or one of its disks is empty")
	}
	for _, d := range disks {
		if err := o.runDisk(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (o *Operation) runDisk(ctx context.Context, d DiskInfo) error {
	r := Request{Kind: Layers}
	m, err := o.e.prepare(ctx, r, o.tally, o.limits())
	if err != nil {
		return err
	}
	defer m.close()
	m.follow(ctx, o.note)
	part, err := m.manifestWith(ctx, d.Layers[0].Layer)
	if err != nil {
		return err
	}
	if err := checkLayers(part.Manifest(), d); err != nil {
		return err
	}
	m.job.Manifest = part
	p, err := m.job.Plan(ctx)
	if err != nil {
		return err
	}
	m.job.Installed = o.layerDone
	// What is installed already needs no step.
	for _, l := range d.Layers {
		if !slices.ContainsFunc(p.Disks[0].Steps, func(st deploy.Step) bool { return st.Layer == l.Layer }) {
			o.layerDone(l.Layer)
		}
	}
	_, err = m.job.Run(ctx, p)
	return err
}

// manifestWith finds a layer among the versions that are meant for the user.
func (m *mission) manifestWith(ctx context.Context, id image.LayerID) (image.Verified, error) {
	var offers []api.Offer
	err := m.ask(ctx, func() error {
		var err error
		offers, err = m.client.Offers(ctx)
		return err
	})
	if err != nil {
		return image.Verified{}, err
	}
	for _, o := range offers {
		if err := m.e.checkOffer(o); err != nil {
			return image.Verified{}, err
		}
		m.e.learnKeys(ctx, m.client, o)
		m.e.unlockMedia(m.job.Media...)
		v, err := m.e.manifest(ctx, m.client, m.reg, o.Image, o.Version)
		if err != nil {
			return image.Verified{}, err
		}
		if part, ok := v.Until(id); ok {
			return part, nil
		}
	}
	return image.Verified{}, problem.New("DS-NOT-ASSIGNED", problem.NotFound, nil,
		fmt.Sprintf("no version that is meant for the user needs layer %s", id.Short()), "nothing was changed", "")
}

// checkLayers compares what the caller said of a disk's images with the manifest.
func checkLayers(mf *image.Manifest, d DiskInfo) error {
	path := mf.Disks[0].Layers
	at := len(path) - 1
	for _, l := range d.Layers {
		for at >= 0 && path[at].ID != l.Layer {
			at--
		}
		if at < 0 {
			return invalidRequest("image %d of disk %s is not below the one before it", l.Ordinal, d.UUID)
		}
		if want := image.VHDUUID(path[at].To); l.UUID != want {
			return invalidRequest("image %d of disk %s becomes the VHD %s, not %s", l.Ordinal, d.UUID, want, l.UUID)
		}
	}
	return nil
}
