package dbusapi

import (
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/image"
)

// separator stands between the ids in the id of a disk or image.
const separator = "__"

// element is the form of an id in a path.
func element(id string) string { return strings.ReplaceAll(id, "-", "_") }

func groupPath(id image.UUID) dbus.ObjectPath {
	return dbus.ObjectPath(groupPrefix + element(id.String()))
}

func diskID(group, disk image.UUID) string { return group.String() + separator + disk.String() }

func imageID(group, disk, im image.UUID) string { return diskID(group, disk) + separator + im.String() }

func diskPath(group, disk image.UUID) dbus.ObjectPath {
	return dbus.ObjectPath(diskPrefix + element(diskID(group, disk)))
}

func imagePath(group, disk, im image.UUID) dbus.ObjectPath {
	return dbus.ObjectPath(imagePrefix + element(imageID(group, disk, im)))
}

// target is what a path names: a group, a disk of a group, or an image of a disk.
type target struct {
	op     *endpoint.Operation
	status endpoint.Status
	disk   *endpoint.DiskInfo
	layer  *endpoint.LayerInfo
}

// find looks up what a path names; ok is false for a path that names nothing.
func (s *server) find(path dbus.ObjectPath) (t target, ok bool) {
	p := string(path)
	kind := ""
	for _, prefix := range []string{groupPrefix, diskPrefix, imagePrefix} {
		if rest, found := strings.CutPrefix(p, prefix); found {
			kind, p = prefix, rest
		}
	}
	for _, op := range s.e.Operations() {
		st := op.Status()
		if kind == groupPrefix && p == element(st.ID.String()) {
			return target{op: op, status: st}, true
		}
		if !strings.HasPrefix(p, element(st.ID.String())+separator) {
			continue
		}
		for i := range st.Disks {
			d := &st.Disks[i]
			if kind == diskPrefix && p == element(diskID(st.ID, d.UUID)) {
				return target{op: op, status: st, disk: d}, true
			}
			for k := range d.Layers {
				if l := &d.Layers[k]; kind == imagePrefix && p == element(imageID(st.ID, d.UUID, l.UUID)) {
					return target{op: op, status: st, disk: d, layer: l}, true
				}
			}
		}
	}
	return target{}, false
}

// isFolder reports whether a path is that of a node that has groups, disks or images below it and nothing of its own.
func isFolder(path dbus.ObjectPath) bool {
	return slices.Contains([]string{groupPrefix, diskPrefix, imagePrefix}, string(path)+"/")
}

func noObject(path dbus.ObjectPath) *dbus.Error {
	return dbusError(errUnknownObject, "there is no object %s", path)
}
