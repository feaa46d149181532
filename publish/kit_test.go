package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/publish"
	"disksync/vhd"
)

// newDisk is lab.Disk with data at the start and the end of each block only, so that packing it takes no time.
func newDisk(seeds ...uint64) []byte {
	const edge = 16 << 10
	d := make([]byte, len(lab.Disk())+len(seeds)*image.BlockSize)
	for i, seed := range seeds {
		if seed != 0 {
			block := d[i*image.BlockSize:][:image.BlockSize]
			lab.Fill(block[:edge], seed)
			lab.Fill(block[image.BlockSize-edge:], seed+1000)
		}
	}
	return d
}

// writeRaw makes a file of a disk's content.
func writeRaw(t testing.TB, name string, disk []byte) string {
	t.Helper()
	if err := os.WriteFile(name, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// newVHD makes a VHD file with the content where it differs from what the parents have, and returns it.
func newVHD(t testing.TB, name string, o vhd.CreateOptions, disk []byte, parents ...*vhd.Image) *vhd.Image {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o.Size = int64(len(disk))
	if err := vhd.Create(f, o); err != nil {
		t.Fatal(err)
	}
	d, err := vhd.OpenDisk(f, size(t, f), parents)
	if err != nil {
		t.Fatal(err)
	}
	old := make([]byte, len(disk))
	if _, err := d.ReadAt(old, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	same := func(at int) bool { return bytes.Equal(disk[at:at+image.SectorSize], old[at:at+image.SectorSize]) }
	for at := 0; at < len(disk); {
		end := at
		for end < len(disk) && !same(end) {
			end += image.SectorSize
		}
		if _, err := d.WriteAt(disk[at:end], int64(at)); err != nil {
			t.Fatal(err)
		}
		at = max(end, at+image.SectorSize)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	m, err := vhd.Open(f, size(t, f))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func size(t testing.TB, f *os.File) int64 {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func uuid(n byte) image.UUID { return image.RandomUUID([16]byte{15: n}) }

// child describes a differencing disk on a parent in the same folder.
func child(n byte, parent image.UUID, path string) vhd.CreateOptions {
	return vhd.CreateOptions{UUID: uuid(n), Parent: &vhd.Parent{UUID: parent, Path: path}}
}

// convert has qemu-img make another form of a file.
func convert(t testing.TB, from, fromFormat, to, toFormat, options string) string {
	t.Helper()
	args := []string{"convert", "-f", fromFormat, "-O", toFormat}
	if options != "" {
		args = append(args, "-o", options)
	}
	cmd := exec.Command(testkit.Tool(t, "qemu-img"), append(args, from, to)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
	return to
}

// options publish one system disk.
func options(t testing.TB, name, file string) publish.Options {
	return publish.Options{Image: name, Spool: t.TempDir(), Level: 1, Disks: []publish.Disk{{Role: image.System, Path: file}}}
}

// publishFile publishes a file as the system disk.
func publishFile(t testing.TB, l *lab.Lab, name, file string) publish.Result {
	t.Helper()
	res, err := publish.Run(t.Context(), l.Admin, options(t, name, file))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// path returns the layers of a version's disk as they are in the data folder.
func path(t testing.TB, l *lab.Lab, name string, v image.Version, r image.Role) []layer.Source {
	t.Helper()
	files, err := l.Admin.MediaFiles(t.Context(), name, v)
	if err != nil {
		t.Fatal(err)
	}
	var out []layer.Source
	for _, m := range files {
		if m.Role != r {
			continue
		}
		f, err := os.Open(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		x, err := layer.ReadIndex(f, m.Length)
		if err != nil || x.ID() != m.Layer || size(t, f) != m.Length {
			t.Fatalf("layer %s: %v", m.Layer, err)
		}
		out = append(out, layer.Source{Index: x, R: f})
	}
	return out
}

// content returns a version's disk, read through its layers.
func content(t testing.TB, l *lab.Lab, name string, v image.Version, r image.Role) []byte {
	t.Helper()
	rd, err := layer.NewReader(path(t, l, name, v, r), testkit.Scratch(t))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	b := make([]byte, rd.Size())
	if _, err := rd.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// holds fails the test unless a version's system disk has the content.
func holds(t testing.TB, l *lab.Lab, name string, v image.Version, want []byte) {
	t.Helper()
	got := content(t, l, name, v, image.System)
	if len(got) != len(want) {
		t.Errorf("version %d of %s has %d bytes, want %d", v, name, len(got), len(want))
	} else if !bytes.Equal(got, want) {
		at := 0
		for got[at] == want[at] {
			at++
		}
		t.Errorf("version %d of %s differs at %d", v, name, at)
	}
}

// versions returns the number of versions of an image, 0 when it is not there.
func versions(t testing.TB, l *lab.Lab, name string) int {
	t.Helper()
	images, err := l.Admin.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, im := range images {
		if im.Name == name {
			return len(im.Versions)
		}
	}
	return 0
}

// refused fails the test unless publishing a file ends with the code, and changes nothing.
func refused(t testing.TB, l *lab.Lab, o publish.Options, code string) {
	t.Helper()
	before, files := versions(t, l, o.Image), stored(t, l)
	res, err := publish.Run(context.WithoutCancel(t.Context()), l.Admin, o)
	if p := problem.Of(err); p == nil || p.Code != code {
		t.Errorf("%+v, %v, want %s", res, err, code)
	}
	if n := versions(t, l, o.Image); n != before {
		t.Errorf("%s has %d versions, it had %d", o.Image, n, before)
	}
	if now := stored(t, l); !slices.Equal(now, files) {
		t.Errorf("the data folder has %q, it had %q", now, files)
	}
	empty(t, o.Spool)
}

// stored returns the names of the layers in the data folder.
func stored(t testing.TB, l *lab.Lab) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.Dir, "layers"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// empty fails the test when there is something in a folder.
func empty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s was left", e.Name())
	}
}

// warnings collects what publishing warns of.
type warnings []string

func (w *warnings) add(text string) { *w = append(*w, text) }

func (w warnings) mention(text string) bool {
	return slices.ContainsFunc(w, func(s string) bool { return strings.Contains(s, text) })
}
