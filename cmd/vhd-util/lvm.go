package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// volumes are the volumes of an LVM group.
type volumes struct {
	list []volume
}

// volume is where a volume lies on a device. A VHD has all of its metadata but the footer in front, so the first segment is enough
// to look at it, and an inactive volume need not be activated.
type volume struct {
	name   string
	size   int64
	linear bool
	device string
	start  int64 // of the first segment on the device, in bytes
	length int64 // of the first segment
}

// readVolumes asks LVM's tools, which are the only ones to know.
func readVolumes(group string) (*volumes, error) {
	if group == "" || strings.HasPrefix(group, "-") {
		return nil, usage("%q is no name of a volume group", group)
	}
	vgs, err := lvm("vgs", group, "vg_name,vg_extent_size,lv_count,pv_count,pv_name,pe_start")
	if err != nil {
		return nil, err
	}
	starts := map[string]int64{}
	var extentSize int64
	for _, f := range vgs {
		if len(f) != 6 || f[0] != group {
			return nil, unexpected("vgs", f)
		}
		size, err1 := strconv.ParseInt(f[1], 10, 64)
		start, err2 := strconv.ParseInt(f[5], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, unexpected("vgs", f)
		}
		starts[f[4]], extentSize = start, size
	}
	lvs, err := lvm("lvs", group, "lv_name,lv_size,segtype,seg_count,seg_start,seg_size,devices")
	if err != nil {
		return nil, err
	}
	v := &volumes{}
	for _, f := range lvs {
		if len(f) >= 5 && f[4] != "0" {
			continue // not the first segment
		}
		one, err := parseVolume(f, starts, extentSize)
		if err != nil {
			return nil, err
		}
		v.list = append(v.list, one)
	}
	return v, nil
}

// lvm runs one of LVM's tools and returns the words of each line.
func lvm(tool, group, columns string) ([][]string, error) {
	cmd := exec.Command(tool, group, "--noheadings", "--nosuffix", "--units=b", "--options="+columns, "--unbuffered")
	out, err := cmd.Output()
	if err != nil {
		number := syscall.EINVAL
		if errors.Is(err, exec.ErrNotFound) {
			number = syscall.ENOENT
		}
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
			err = errors.New(strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, refuse(number, err, fmt.Sprintf("%s could not tell about volume group %s", tool, group), unchanged, "-l needs LVM's tools and the right to use them")
	}
	var lines [][]string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			lines = append(lines, f)
		}
	}
	return lines, nil
}

func unexpected(tool string, line []string) error {
	return refuse(syscall.EINVAL, nil, fmt.Sprintf("%s said %q, which this program does not understand", tool, strings.Join(line, " ")), unchanged, "")
}

func parseVolume(f []string, starts map[string]int64, extentSize int64) (volume, error) {
	if len(f) != 7 {
		return volume{}, unexpected("lvs", f)
	}
	size, err1 := strconv.ParseInt(f[1], 10, 64)
	length, err2 := strconv.ParseInt(f[5], 10, 64)
	// DEVICE(EXTENT), and more of them with commas when the volume is striped.
	device, rest, ok := strings.Cut(f[6], "(")
	number, _, ok2 := strings.Cut(rest, ")")
	extent, err3 := strconv.ParseInt(number, 10, 64)
	start, known := starts[device]
	if err := errors.Join(err1, err2, err3); err != nil || !ok || !ok2 || !known {
		return volume{}, unexpected("lvs", f)
	}
	return volume{f[0], size, f[2] == "linear", device, start + extent*extentSize, length}, nil
}

// match returns the volumes that one of the patterns matches, each once.
func (v *volumes) match(patterns []string) ([]target, error) {
	var out []target
	for _, p := range patterns {
		for _, one := range v.list {
			ok, err := filepath.Match(p, one.name)
			if err != nil {
				return nil, usage("%s: %v", p, err)
			}
			if t := (target{name: one.name}); ok && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// scan looks at one volume.
func (v *volumes) scan(t target, markers bool) *scanned {
	x := &scanned{Name: t.name}
	i := slices.IndexFunc(v.list, func(one volume) bool { return one.name == t.name })
	if i < 0 {
		return x.fail(syscall.ENOENT, "failure scanning target")
	}
	one := v.list[i]
	x.Size = one.size
	if !one.linear {
		return x.fail(syscall.ENOSYS, "failure scanning target")
	}
	if t.raw {
		x.Capacity, x.Hidden = x.Size, 1
		return x
	}
	f, err := os.Open(one.device)
	if err != nil {
		return x.fail(err, "opening device")
	}
	defer f.Close()
	r := io.NewSectionReader(f, one.start, min(one.length, one.size))
	m, err := vhd.Open(r, r.Size(), vhd.Salvage())
	if err != nil {
		return x.fail(err, "reading headers")
	}
	x.Capacity, x.Hidden = m.Size(), m.Footer().Hidden
	if markers {
		s, err := vhdfile.InspectReader(r, r.Size())
		if err != nil {
			return x.fail(err, "checking markers")
		}
		x.marks(s)
	}
	if m.Type() == vhd.Differencing {
		x.Parent = volumeName(m)
		x.parentPath, x.parentRaw = x.Parent, m.ParentUUID().IsZero()
	}
	return x
}

// volumeName takes the name of the parent's volume from its path, /dev/mapper/GROUP-VOLUME with dashes of names doubled.
func volumeName(m *vhd.Image) string {
	name := ""
	if h, ok := m.Header(); ok {
		name = h.ParentName
	}
	if paths := m.ParentPaths(); name == "" && len(paths) > 0 {
		name = filepath.Base(paths[0])
	}
	const doubled = "\x00"
	name = strings.ReplaceAll(name, "--", doubled)
	if _, volume, ok := strings.Cut(name, "-"); ok {
		name = volume
	}
	return strings.ReplaceAll(name, doubled, "-")
}
