package cache

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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
	Kind Kind   `json:"kind"`
	Dir  string `json:"dir"`
	// Device is the block device, empty for a folder that somebody named.
	Device string `json:"device,omitempty"`
}

// Finder finds mounted removable media. The zero value looks at this machine.
type Finder struct {
	Proc, Sys string // where /proc and /sys are; empty: there
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
		kind, ok := f.kind(m.device, m.source)
		hidden := slices.ContainsFunc(mounts[i+1:], func(later mount) bool { return later.dir == m.dir })
		if !ok || hidden || seen[m.device] || m.dir == "/" {
			continue
		}
		seen[m.device] = true
		media = append(media, Medium{Kind: kind, Dir: m.dir, Device: m.source})
	}
	return media, nil
}

// KindOf returns the kind of the medium that holds the folder dir, and otherwise for a folder that is not on removable media.
func (f Finder) KindOf(dir string, otherwise Kind) Kind {
	mounts, err := f.mounts()
	if err != nil {
		return otherwise
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return otherwise
	}
	if real, err = filepath.Abs(real); err != nil {
		return otherwise
	}
	best := mount{dir: ""}
	for _, m := range mounts {
		// Of two mounts on one another the later counts.
		if len(m.dir) >= len(best.dir) && (real == m.dir || strings.HasPrefix(real, strings.TrimSuffix(m.dir, "/")+"/")) {
			best = m
		}
	}
	if kind, ok := f.kind(best.device, best.source); ok {
		return kind
	}
	return otherwise
}

// mount is one line of mountinfo (see proc(5)).
type mount struct {
	device string // major:minor
	dir    string
	source string
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
		if !ok || len(head) < 5 || len(tail) < 2 {
			continue
		}
		out = append(out, mount{device: head[2], dir: unescape(head[4]), source: unescape(tail[1])})
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

var (
	usbPath   = regexp.MustCompile(`/usb\d+/`)
	plainName = regexp.MustCompile(`^[A-Za-z0-9._!-]+$`)
)

// kind tells what a mounted device is; ok is false when it is not removable. Some FUSE file systems have a device number of
// their own, so the name of the source is tried as well.
func (f Finder) kind(device, source string) (kind Kind, ok bool) {
	for _, link := range []string{filepath.Join("dev", "block", device), filepath.Join("class", "block", sourceName(source))} {
		dir, err := filepath.EvalSymlinks(filepath.Join(f.sys(), link))
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
			dir = filepath.Dir(dir)
		}
		switch {
		case strings.HasPrefix(filepath.Base(dir), "sr"), attribute(dir, "device/type") == "5":
			return DVD, true
		case usbPath.MatchString(dir + "/"), attribute(dir, "removable") == "1":
			return USB, true
		}
		return "", false
	}
	return "", false
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
