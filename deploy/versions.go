package deploy

import (
	"disksync/api"
	"disksync/image"
)

// versions tells which version of the image a state is of, as far as that is known. It is for people only.
type versions map[image.StateID]image.Version

func (v versions) add(l api.Layer) {
	for id, n := range map[image.StateID]image.Version{l.From: l.FromVersion, l.To: l.ToVersion} {
		if v[id] == 0 && n != 0 && !id.IsZero() {
			v[id] = n
		}
	}
}

// versionsOf collects what the manifest says and what the records of VMs say.
func (j *Job) versionsOf(d *image.Disk) versions {
	v := versions{}
	m := j.Manifest.Manifest()
	if d.Size != 0 && m.Point == nil {
		v[d.State] = m.Version
	}
	// A version adds at most one layer, so that there are as many only when each added one.
	if m.Point == nil && len(d.Layers) == int(m.Version) {
		for i, l := range d.Layers {
			v[l.To] = image.Version(i + 1)
		}
	}
	vms, err := j.Store.VMs()
	if err != nil {
		return v // whoever needs the records will say what is wrong with them
	}
	for _, vm := range vms {
		for _, dep := range []*Deployment{&vm.Current, vm.Previous} {
			if vm.ImageID != originOf(m).id || dep == nil {
				continue
			}
			for _, k := range dep.Disks {
				if v[k.State] == 0 && !k.Own {
					v[k.State] = dep.Version
				}
			}
		}
	}
	return v
}
