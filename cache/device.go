package cache

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const sectorSize = 512 // of the sizes in sysfs, whatever the device has

var (
	usbPath   = regexp.MustCompile(`/usb\d+/`)
	plainName = regexp.MustCompile(`^[A-Za-z0-9._!-]+$`)
)

// medium describes a mounted device; ok is false when it is not removable. Some FUSE file systems have a device number of their own,
// so the name of the source is tried as well.
func (f Finder) medium(m mount) (_ Medium, ok bool) {
	for _, link := range []string{filepath.Join("dev", "block", m.device), filepath.Join("class", "block", sourceName(m.source))} {
		dir, err := filepath.EvalSymlinks(filepath.Join(f.sys(), link))
		if err != nil {
			continue
		}
		medium, ok := f.describe(dir)
		medium.Dir, medium.Device = m.dir, m.source
		medium.FS = cmp.Or(medium.FS, m.fsType)
		medium.ReadOnly = medium.ReadOnly || slices.Contains(m.options, "ro")
		return medium, ok
	}
	return Medium{}, false
}

// describe tells what sysfs and udev know of a device or partition, given its folder in sysfs.
func (f Finder) describe(dir string) (m Medium, ok bool) {
	disk := dir
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		disk = filepath.Dir(dir)
	}
	switch {
	case strings.HasPrefix(filepath.Base(disk), "sr"), attribute(disk, "device/type") == "5":
		m.Kind = DVD
	case usbPath.MatchString(disk + "/"), attribute(disk, "removable") == "1":
		m.Kind = USB
	default:
		return Medium{}, false
	}
	m.Device = "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/")
	m.Drive = filepath.Base(disk)
	if n, err := strconv.ParseInt(attribute(dir, "size"), 10, 64); err == nil && n > 0 && n < 1<<54 {
		m.Size = n * sectorSize
	}
	m.ReadOnly = attribute(dir, "ro") == "1"
	known := f.udev(attribute(dir, "dev"))
	m.Label, m.FS = unescapeUdev(cmp.Or(known["ID_FS_LABEL_ENC"], known["ID_FS_LABEL"])), known["ID_FS_TYPE"]
	m.ID = Identity(f.Sequence(m.Drive), m.Size, known["ID_FS_UUID"])
	return m, true
}

// Identity returns the ID of a medium; empty parts are not known.
func Identity(sequence string, size int64, uuid string) string {
	return fmt.Sprintf("%s:%d:%s", sequence, size, uuid)
}

// Sequence returns the number that the kernel gave the medium in a drive when it came, or "" where it gives none. drive is the name of
// a whole disk in sysfs.
func (f Finder) Sequence(drive string) string {
	if !plainName.MatchString(drive) {
		return ""
	}
	return attribute(filepath.Join(f.sys(), "class", "block", drive), "diskseq")
}

// Devices returns the removable devices that hold something, mounted or not, without the disks whose partitions are known. Those that
// udev has yet to look at are coming: their partitions, their file systems and who may open them are not settled.
func (f Finder) Devices() (media, coming []Medium, err error) {
	root := filepath.Join(f.sys(), "class", "block")
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, nil, fmt.Errorf("look for media: %w", err)
	}
	divided := map[string]bool{}
	for _, e := range entries {
		dir, err := filepath.EvalSymlinks(filepath.Join(root, e.Name()))
		if err != nil {
			continue
		}
		m, ok := f.describe(dir)
		if !ok || m.Size == 0 {
			continue
		}
		if m.Drive != filepath.Base(dir) {
			divided[m.Drive] = true
		}
		if f.settled(dir, m.Drive) {
			media = append(media, m)
		} else {
			coming = append(coming, m)
		}
	}
	whole := func(m Medium) bool { return divided[m.Drive] && m.Device == "/dev/"+m.Drive }
	return slices.DeleteFunc(media, whole), slices.DeleteFunc(coming, whole), nil
}

// settled reports whether udev has looked at a device, and at the medium that is in its drive now. Where no udev runs there is nothing to
// wait for.
func (f Finder) settled(dir, drive string) bool {
	if _, err := os.Stat(filepath.Join(f.run(), "udev", "control")); err != nil {
		return true
	}
	if _, ok := f.udev(attribute(dir, "dev"))[udevLooked]; !ok {
		return false
	}
	whole := f.udev(attribute(filepath.Join(f.sys(), "class", "block", drive), "dev"))
	if _, ok := whole[udevLooked]; !ok {
		return false
	}
	// A disc that is put in changes its drive, of which udev knew before. What it knows is of the medium with this number.
	number, ok := whole[udevNumber]
	return !ok || number == f.Sequence(drive)
}

// Mounted tells where a device is mounted, with the options of the mount.
func (f Finder) Mounted(device string) (dir string, options []string, ok bool) {
	mounts, err := f.mounts()
	if err != nil {
		return "", nil, false
	}
	for _, m := range mounts {
		if m.source == device {
			return m.dir, m.options, true
		}
	}
	return "", nil, false
}

func sourceName(source string) string {
	name := strings.TrimPrefix(source, "/dev/")
	if name == source || !plainName.MatchString(name) {
		return "none"
	}
	return name
}

func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return strings.TrimSpace(string(b))
}

const (
	udevLooked = "I" // when udev looked at a device first, which it notes at the end
	udevNumber = "S:disk/by-diskseq/"
)

// maxUdev bounds the lines that are read of what udev knows of a device.
const maxUdev = 1000

// udev returns what udev knows of a device with that major:minor, by its file in /run/udev/data: the lines "E:NAME=VALUE", udevLooked, and
// the number of the medium in a drive, which it makes a link for.
func (f Finder) udev(number string) map[string]string {
	out := map[string]string{}
	if number == "" || strings.ContainsAny(number, "/\x00") {
		return out
	}
	file, err := os.Open(filepath.Join(f.run(), "udev", "data", "b"+number))
	if err != nil {
		return out
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 0; n < maxUdev && lines.Scan(); n++ {
		if text, ok := strings.CutPrefix(lines.Text(), "E:"); ok {
			name, value, _ := strings.Cut(text, "=")
			out[name] = value
		} else if text, ok := strings.CutPrefix(lines.Text(), udevLooked+":"); ok {
			out[udevLooked] = text
		} else if text, ok := strings.CutPrefix(lines.Text(), udevNumber); ok && !strings.Contains(text, "-") {
			out[udevNumber] = text
		}
	}
	return out
}

// unescapeUdev reads the escapes of names that end in _ENC: \x and two digits.
func unescapeUdev(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
