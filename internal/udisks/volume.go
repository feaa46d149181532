package udisks

import (
	"maps"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Volume is a block device as UDisks2 describes it.
type Volume struct {
	Path   string // of the object
	Device string // e.g. /dev/sdb1
	Disk   string // the whole disk that it is a part of, or itself
	// Drive is the object of what it is in, empty for a device that is in no drive.
	Drive     string
	FS        string // file system, as blkid calls it; empty: none is known
	Label     string
	UUID      string
	Size      int64 // bytes
	ReadOnly  bool
	Ignore    bool // an administrator wants it to be left alone
	System    bool // a disk of the machine itself
	HasFS     bool // UDisks2 would mount it
	Divided   bool // it has a partition table
	Mounts    []string
	Optical   bool // its drive is for discs, or has one in it
	USB       bool // connected by USB, or a stick that does not say how
	Removable bool // the medium or the drive
}

// Volumes returns the block devices, in the order of their names; ok is false where there is no UDisks2.
func (c *Client) Volumes() (volumes []Volume, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.there {
		return nil, false
	}
	for _, path := range slices.Sorted(maps.Keys(c.objects)) {
		if v, ok := c.volume(path); ok {
			volumes = append(volumes, v)
		}
	}
	return volumes, true
}

// volume reads an object. The caller holds mu.
func (c *Client) volume(path dbus.ObjectPath) (Volume, bool) {
	o := c.objects[path]
	block, ok := o[ifaceBlock]
	if !ok {
		return Volume{}, false
	}
	v := Volume{
		Path: string(path), Device: text(block["Device"]), FS: get[string](block["IdType"]), Label: get[string](block["IdLabel"]),
		UUID: get[string](block["IdUUID"]), ReadOnly: get[bool](block["ReadOnly"]), Ignore: get[bool](block["HintIgnore"]),
		System: get[bool](block["HintSystem"]), Drive: string(get[dbus.ObjectPath](block["Drive"])),
	}
	if n := get[uint64](block["Size"]); n < 1<<62 {
		v.Size = int64(n)
	}
	v.Disk = v.Device
	if part, ok := o[service+".Partition"]; ok {
		if table, ok := c.objects[get[dbus.ObjectPath](part["Table"])]; ok {
			v.Disk = text(table[ifaceBlock]["Device"])
		}
	}
	_, v.Divided = o[ifaceTable]
	if fs, ok := o[ifaceFS]; ok {
		v.HasFS = true
		for _, m := range get[[][]byte](fs["MountPoints"]) {
			v.Mounts = append(v.Mounts, cut(m))
		}
	}
	if d, ok := c.objects[dbus.ObjectPath(v.Drive)][ifaceDrive]; ok && v.Drive != "/" {
		v.Optical = get[bool](d["Optical"]) || strings.HasPrefix(get[string](d["Media"]), "optical") ||
			slices.ContainsFunc(get[[]string](d["MediaCompatibility"]), func(m string) bool { return strings.HasPrefix(m, "optical") })
		v.USB = get[string](d["ConnectionBus"]) == "usb" || get[string](d["Media"]) == "thumb"
		v.Removable = get[bool](d["Removable"]) || get[bool](d["MediaRemovable"]) || get[bool](d["Ejectable"])
	} else {
		v.Drive = ""
	}
	return v, true
}

func get[T any](v dbus.Variant) T {
	t, _ := v.Value().(T)
	return t
}

// text reads a name that ends with a NUL.
func text(v dbus.Variant) string { return cut(get[[]byte](v)) }

func cut(b []byte) string {
	name, _, _ := strings.Cut(string(b), "\x00")
	return name
}
