package cache

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kind is the kind of a medium, which decides the setting that allows it and the order of use.
type Kind string

// The kinds.
const (
	USB Kind = "usb" // and any other removable disk
	DVD Kind = "dvd" // any optical disc
)

// Medium is a place to look for blocks.
type Medium struct {
	Kind Kind `json:"kind"`
	// Dir is the folder to look in; empty: nothing is mounted, and Device is to be read as it is.
	Dir string `json:"dir"`
	// Device is the block device, empty for a folder that is on none of the machine's media.
	Device string `json:"device,omitempty"`
	// ID changes whenever a medium is put in or plugged in: the number that the kernel gave it (diskseq), its size, and the uuid of
	// its file system, as far as they are known.
	ID string `json:"id,omitempty"`
	// Drive names what reads it: media of one drive are not read at the same time.
	Drive    string `json:"drive,omitempty"`
	Label    string `json:"label,omitempty"`
	FS       string `json:"fs,omitempty"`   // file system, as blkid calls it
	Size     int64  `json:"size,omitempty"` // bytes
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Place says where the medium is: its folder, else its device.
func (m Medium) Place() string {
	if m.Dir == "" {
		return m.Device
	}
	return m.Dir
}

// Is reports whether the other is the same medium in the same place, put in once.
func (m Medium) Is(other Medium) bool {
	return m.ID == other.ID && m.Dir == other.Dir && m.Device == other.Device && m.Kind == other.Kind
}

// Finder finds mounted removable media. The zero value looks at this machine.
type Finder struct {
	Proc, Sys, Run string // where /proc, /sys and /run are; empty: there
}

func (f Finder) run() string {
	if f.Run == "" {
		return "/run"
	}
	return f.Run
}

func (f Finder) proc() string {
	if f.Proc == "" {
		return "/proc"
	}
	return f.Proc
}

func (f Finder) sys() string {
	if f.Sys == "" {
		return "/sys"
	}
	return f.Sys
}

// Find returns the mounted media, in the order of their mounts.
func (f Finder) Find() ([]Medium, error) {
	mounts, err := f.mounts()
	if err != nil {
		return nil, fmt.Errorf("look for media: %w", err)
	}
	var media []Medium
	seen := map[string]bool{}
	for i, m := range mounts {
		medium, ok := f.medium(m)
		hidden := slices.ContainsFunc(mounts[i+1:], func(later mount) bool { return later.dir == m.dir })
		if !ok || hidden || seen[m.device] || m.dir == "/" {
			continue
		}
		seen[m.device] = true
		media = append(media, medium)
	}
	return media, nil
}

// KindOf returns the kind of the medium that holds the folder dir, and otherwise for a folder that is not on removable media.
func (f Finder) KindOf(dir string, otherwise Kind) Kind { return f.Folder(dir, otherwise).Kind }

// Folder returns the folder dir as a medium: of the kind of the one that it is on, with its drive, and of the kind otherwise when it is
// not on removable media.
func (f Finder) Folder(dir string, otherwise Kind) Medium {
	folder := Medium{Kind: otherwise, Dir: dir}
	mounts, err := f.mounts()
	if err != nil {
		return folder
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return folder
	}
	if real, err = filepath.Abs(real); err != nil {
		return folder
	}
	best := mount{dir: ""}
	for _, m := range mounts {
		// Of two mounts on one another the later counts.
		if len(m.dir) >= len(best.dir) && (real == m.dir || strings.HasPrefix(real, strings.TrimSuffix(m.dir, "/")+"/")) {
			best = m
		}
	}
	if medium, ok := f.medium(best); ok {
		medium.Dir = dir
		return medium
	}
	return folder
}

// mount is one line of mountinfo (see proc(5)).
type mount struct {
	device  string // major:minor
	dir     string
	options []string
	fsType  string
	source  string
}

func (f Finder) mounts() ([]mount, error) {
	file, err := os.Open(filepath.Join(f.proc(), "self", "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var out []mount
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 2 {
			continue
		}
		out = append(out, mount{
			device: head[2], dir: unescape(head[4]), options: strings.Split(head[5], ","), fsType: tail[0], source: unescape(tail[1]),
		})
	}
	return out, lines.Err()
}

// unescape reads the octal escapes that the kernel writes for blanks and the like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			var c byte
			if _, err := fmt.Sscanf(s[i+1:i+4], "%03o", &c); err == nil {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
