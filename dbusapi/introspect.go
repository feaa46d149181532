package dbusapi

import (
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
)

// introspect implements org.freedesktop.DBus.Introspectable.Introspect.
func (s *server) introspect(msg dbus.Message) (string, *dbus.Error) {
	path := pathOf(msg)
	if path == rootPath {
		return describe(xmlMain+xmlConfig()+xmlOwn, "diskgroup", "disk", "image"), nil
	}
	for prefix, children := range map[string]func(endpoint.Status) []dbus.ObjectPath{
		groupPrefix: func(st endpoint.Status) []dbus.ObjectPath { return []dbus.ObjectPath{groupPath(st.ID)} },
		diskPrefix:  diskPaths, imagePrefix: imagePaths,
	} {
		if string(path)+"/" != prefix {
			continue
		}
		var names []string
		for _, op := range s.e.Operations() {
			for _, p := range children(op.Status()) {
				names = append(names, strings.TrimPrefix(string(p), prefix))
			}
		}
		return describe("", names...), nil
	}
	t, ok := s.find(path)
	switch {
	case !ok:
		return "", noObject(path)
	case t.layer != nil:
		return describe(xmlImage), nil
	case t.disk != nil:
		return describe(xmlDisk), nil
	}
	return describe(xmlGroup), nil
}

func diskPaths(st endpoint.Status) (paths []dbus.ObjectPath) {
	for _, d := range st.Disks {
		paths = append(paths, diskPath(st.ID, d.UUID))
	}
	return paths
}

func imagePaths(st endpoint.Status) (paths []dbus.ObjectPath) {
	for _, d := range st.Disks {
		for _, l := range d.Layers {
			paths = append(paths, imagePath(st.ID, d.UUID, l.UUID))
		}
	}
	return paths
}
