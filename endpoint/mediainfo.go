package endpoint

import (
	"context"
	"slices"
	"time"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/problem"
)

// How a medium is read.
const (
	ReadMounted = "mounted" // through the file system that is mounted
	ReadDevice  = "device"  // from the device, since nothing is mounted
)

// MediumInfo describes a medium to people.
type MediumInfo struct {
	cache.Medium
	Used  bool     `json:"used"`            // the settings allow its use
	Read  string   `json:"read"`            // how
	Found string   `json:"found,omitempty"` // what was recognised on it
	Notes []string `json:"notes,omitempty"`
	// Images are those that something on it belongs to, as far as manifests are known here.
	Images []MediumImage `json:"images,omitempty"`
	// Layers are those that no known manifest names.
	Layers []image.LayerID `json:"layers,omitempty"`
	// Saves says what a download or an update would take from it; nothing where that is not known.
	Saves  []MediumSaving `json:"saves,omitempty"`
	Health Health         `json:"health"`
}

// MediumImage is a version of an image's disk that a medium has something of.
type MediumImage struct {
	Image   string        `json:"image"`
	Version image.Version `json:"version,omitempty"` // 0: an older one, whose number is not known
	Role    image.Role    `json:"role"`
}

// MediumSaving is what a medium saves of a download.
type MediumSaving struct {
	Image   string        `json:"image"`
	Version image.Version `json:"version"`
	Bytes   int64         `json:"bytes"` // that need not come over the network, as frames
}

// planTime bounds the planning for a list of media, over a line that may be bad.
const planTime = 30 * time.Second

// MediaReport is a list of media and what people should know about it.
type MediaReport struct {
	Media []MediumInfo `json:"media"`
	Notes []string     `json:"notes,omitempty"`
}

// Media describes the media that are in, and the named folders. What they would save is worked out for the image with that name, or for
// all that are assigned to the user; without a Synchronizer it is not known, which is no error when no image was named.
func (e *Engine) Media(ctx context.Context, named []string, name string) (*MediaReport, error) {
	defer e.hotplug.Use(ctx, e.allowed)()
	all, notes, err := e.list(named)
	if err != nil {
		return nil, err
	}
	rep := &MediaReport{Media: []MediumInfo{}, Notes: notes}
	var there []shelved
	defer func() { closeAll(inventories(there)) }()
	for _, m := range all {
		s := shelved{Medium: m}
		info := MediumInfo{Medium: m, Used: e.allowed(m.Kind), Read: ReadMounted}
		if m.Dir == "" {
			info.Read = ReadDevice
		}
		if info.Used || m.Dir != "" {
			if s.inv, err = e.scan(ctx, m); emptyDrive(m, named, err) {
				continue
			}
			if err != nil {
				info.Notes = []string{err.Error()}
			}
		}
		if s.inv != nil {
			info.Found, info.Notes = s.inv.Summary(), s.inv.Notes
		}
		there = append(there, s)
		rep.Media = append(rep.Media, info)
	}
	known, err := e.appraise(ctx, rep, there, name)
	if err != nil {
		if name != "" || ctx.Err() != nil {
			return nil, err
		}
		rep.Notes = append(rep.Notes, "what the media would save is not known: "+problem.Of(err).What)
	}
	for i := range rep.Media {
		info := &rep.Media[i]
		if inv := there[i].inv; inv != nil {
			info.Images, info.Layers = contents(inv, append(known, e.installed()...))
		}
		info.Health = e.healthOf(info.Medium)
	}
	return rep, nil
}

// appraise works out what media save of the downloads of an image, or of all that are assigned, and returns their manifests.
func (e *Engine) appraise(ctx context.Context, rep *MediaReport, there []shelved, name string) (known []*image.Manifest, err error) {
	ctx, cancel := context.WithTimeout(ctx, planTime)
	defer cancel()
	names := []string{name}
	if name == "" {
		offers, err := e.Offers(ctx)
		if err != nil {
			return nil, err
		}
		names = nil
		for _, o := range offers {
			names = append(names, o.Image)
		}
	}
	var use []*cache.Inventory
	for i, s := range there {
		if s.inv != nil && rep.Media[i].Used {
			use = append(use, s.inv)
		}
	}
	for _, n := range names {
		mf, err := e.appraiseOne(ctx, rep, use, n)
		if err != nil {
			return known, err
		}
		known = append(known, mf)
	}
	return known, nil
}

func (e *Engine) appraiseOne(ctx context.Context, rep *MediaReport, use []*cache.Inventory, name string) (*image.Manifest, error) {
	m, err := e.clarify(ctx, e.bring(name), deploy.NewTally(), nil)
	if err != nil {
		return nil, err
	}
	defer m.close()
	mf := m.job.Manifest.Manifest()
	if m.nothing != "" {
		return mf, nil
	}
	m.job.Media = use
	p, err := m.job.Plan(ctx)
	m.job.Media = nil // they are closed by whoever opened them
	if err != nil {
		return nil, err
	}
	for i := range rep.Media {
		info := &rep.Media[i]
		k := slices.IndexFunc(p.Media, func(mp deploy.MediumPlan) bool { return mp.Place() == info.Place() })
		if k >= 0 {
			info.Saves = append(info.Saves, MediumSaving{mf.Image, mf.Version, p.Media[k].Saves})
		}
	}
	return mf, nil
}

// bring returns the request that brings the present version of an image here.
func (e *Engine) bring(name string) Request {
	vms, err := e.store.VMs()
	if err != nil {
		return Request{Kind: Download, Image: name, VM: name} // whoever needs the records will say what is wrong with them
	}
	for _, vm := range vms {
		if vm.Image == name {
			return Request{Kind: Update, VM: vm.Name, Replace: true}
		}
	}
	return Request{Kind: Download, Image: name, VM: name}
}

// installed returns the manifests of the versions that are here.
func (e *Engine) installed() (known []*image.Manifest) {
	vms, err := e.store.VMs()
	if err != nil {
		return nil
	}
	for _, vm := range vms {
		for _, d := range []*deploy.Deployment{&vm.Current, vm.Previous} {
			if d == nil {
				continue
			}
			if m, err := e.store.Manifest(*d, e.trusted()...); err == nil {
				known = append(known, m.Manifest())
			}
		}
	}
	return known
}

// contents names what is on a medium by the manifests that are known, newest version first, and returns the layers that none names.
func contents(inv *cache.Inventory, known []*image.Manifest) (images []MediumImage, layers []image.LayerID) {
	named := map[image.LayerID]bool{}
	for _, m := range known {
		for _, d := range m.Disks {
			for i, l := range d.Layers {
				if inv.HasLayer(l.ID) {
					named[l.ID] = true
				} else if !slices.ContainsFunc(append([]image.UUID{image.VHDUUID(l.To)}, l.VHDUUIDs...), inv.HasVHD) {
					continue
				}
				mi := MediumImage{Image: m.Image, Version: versionOf(m, d, i), Role: d.Role}
				if !slices.Contains(images, mi) {
					images = append(images, mi)
				}
			}
		}
	}
	for _, id := range inv.Layers() {
		if !named[id] {
			layers = append(layers, id)
		}
	}
	slices.SortStableFunc(images, func(a, b MediumImage) int { return int(b.Version) - int(a.Version) })
	return images, layers
}

// versionOf returns the version that a layer of a manifest leads to; 0: it does not say. A version adds at most one layer, so that there
// are as many only when each added one.
func versionOf(m *image.Manifest, d image.Disk, layer int) image.Version {
	switch {
	case d.Layers[layer].To == d.State:
		return m.Version
	case len(d.Layers) == int(m.Version):
		return image.Version(layer + 1)
	}
	return 0
}
