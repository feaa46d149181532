package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/internal/progress"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// mega is the unit of most sizes on the command line, in bytes.
const mega = 1 << 20

// options are those of all commands.
type options struct {
	parents []string
}

// lookup says where the parents of a disk may be. The disk's own folder counts for all of them.
func (o *options) lookup(name string) vhdfile.Options {
	return vhdfile.Options{Dirs: append(slices.Clone(o.parents), filepath.Dir(canonical(name))), FollowPaths: true}
}

// chain opens a disk with its parents.
func (o *options) chain(name string) (*vhdfile.Chain, error) {
	return vhdfile.OpenChain(canonical(name), o.lookup(name))
}

// disk opens a disk for writing.
func (o *options) disk(name string) (*vhdfile.Disk, error) {
	return vhdfile.OpenDisk(canonical(name), o.lookup(name))
}

// file opens one file by itself, with damage in its block table: for looking, not for use.
func file(name string) (*vhdfile.File, error) {
	f, err := vhdfile.OpenFile(canonical(name), vhd.Salvage())
	if err != nil {
		return nil, err
	}
	return f, nil
}

// devices is where block devices are.
const devices = "/dev/"

// canonical returns a file's absolute path without links. A volume, /dev/GROUP/VOLUME, gets the name that it has in /dev/mapper: that
// is what the disks on volumes call their parents. What it links to, dm-7 and the like, is another volume after the next start.
func canonical(name string) string {
	abs, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	if rest, ok := strings.CutPrefix(abs, devices); ok {
		if group, volume, ok := strings.Cut(rest, "/"); ok && group != "mapper" && !strings.Contains(volume, "/") {
			double := strings.NewReplacer("-", "--")
			mapped := devices + "mapper/" + double.Replace(group) + "-" + double.Replace(volume)
			if _, err := os.Stat(mapped); err == nil {
				return mapped
			}
		}
		return abs
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real
	}
	return abs
}

// relative returns where parent is from the folder of child, with forward slashes.
func relative(child, parent string) (string, error) {
	dir := canonical(filepath.Dir(child))
	rel, err := filepath.Rel(dir, canonical(parent))
	if err != nil {
		return "", err
	}
	return filepath.ToSlash(rel), nil
}

func newUUID() image.UUID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return image.RandomUUID(b)
}

func now() vhd.Timestamp { return vhd.TimestampOf(time.Now()) }

// meter shows how far the work is, on a terminal only: scripts read what is on stderr as an error.
func meter() *progress.Meter {
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" {
		return progress.New(os.Stderr)
	}
	return progress.New(nil)
}

// show is a library's progress function that goes to a meter.
func show(m *progress.Meter, title string) func(done, total int64) {
	return func(done, total int64) { m.Show(title, done, total, "") }
}

// number is a decimal option. Unlike other programs' numbers, 010 is ten.
type number struct {
	n   int64
	set bool
}

func (v *number) String() string {
	if !v.set {
		return ""
	}
	return strconv.FormatInt(v.n, 10)
}

func (v *number) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return usage("%q is no decimal number that makes sense here", s)
	}
	v.n, v.set = n, true
	return nil
}

func (v *number) Type() string { return "number" }

// megabytes returns the number, given in MiB, in bytes; too many are more than any disk can have.
func (v *number) megabytes() int64 { return min(v.n, 1<<42) * mega }

// nameFlag adds -n, which every command of the original has, and which must be given.
func nameFlag(c *cobra.Command, name *string) {
	c.Flags().StringVarP(name, "name", "n", "", "the VHD `file` or block device")
	required(c, "name")
}

func required(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			panic("vhd-util: internal error: " + err.Error())
		}
	}
}

func numberFlag(c *cobra.Command, v *number, name, short, help string) {
	c.Flags().VarP(v, name, short, help)
}
