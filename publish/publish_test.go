package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/internal/testkit/lab"
	"disksync/publish"
	"disksync/syncclient"
	"disksync/vhd"
)

// TestForms publishes version 2 from everything that a disk can be given as. What counts is the content: state and
// layer are the same each time, to the byte.
func TestForms(t *testing.T) {
	l := lab.Start(t)
	one, two := newDisk(1, 2, 0, 3), newDisk(1, 4, 5, 0)
	copy(two[100*image.SectorSize:], "one sector of the first block")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	base := newVHD(t, at("base.vhd"), vhd.CreateOptions{UUID: uuid(1)}, one)
	newVHD(t, at("full.vhd"), vhd.CreateOptions{UUID: uuid(2)}, two)
	newVHD(t, at("blocks.vhd"), vhd.CreateOptions{UUID: uuid(3), BlockSize: 512 << 10}, two)
	newVHD(t, at("child.vhd"), child(4, base.UUID(), "base.vhd"), two, base)
	middle := newVHD(t, at("middle.vhd"), child(5, base.UUID(), "base.vhd"), newDisk(9, 4, 0, 3), base)
	newVHD(t, at("grandchild.vhd"), child(6, middle.UUID(), "middle.vhd"), two, middle, base)
	raw := writeRaw(t, at("two.raw"), two)
	sparse := writeRaw(t, at("sparse.raw"), nil)
	f, err := os.OpenFile(sparse, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(two); at += 4096 {
		if b := two[at:min(at+4096, len(two))]; !image.IsZero(b) {
			if _, err := f.WriteAt(b, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(f.Truncate(int64(len(two))), f.Close()); err != nil {
		t.Fatal(err)
	}
	// These are without the file of version 1: what was published stands in for it.
	alone := t.TempDir()
	newVHD(t, filepath.Join(alone, "child.vhd"), child(7, base.UUID(), "base.vhd"), two, base)
	state := publishFile(t, l, "state", at("base.vhd")).Disks[0].State
	leafOf := vhd.Content(image.VHDUUID(state), bytes.NewReader(one), int64(len(one)))
	newVHD(t, filepath.Join(alone, "leaf.vhd"), child(8, leafOf.UUID(), "disks/base.vhd"), two, leafOf)

	tests := []struct {
		name, file string
		format     publish.Format
		uuid       image.UUID
		warning    string
	}{
		{"raw", raw, publish.Raw, image.UUID{}, ""},
		{"sparse", sparse, publish.Raw, image.UUID{}, ""},
		{"dynamic", at("full.vhd"), publish.VHD, uuid(2), ""},
		{"small-blocks", at("blocks.vhd"), publish.VHD, uuid(3), ""},
		{"child", at("child.vhd"), publish.VHD, uuid(4), ""},
		{"grandchild", at("grandchild.vhd"), publish.VHD, uuid(6), ""},
		{"child-alone", filepath.Join(alone, "child.vhd"), publish.VHD, uuid(7), "reading version 1"},
		{"leaf-alone", filepath.Join(alone, "leaf.vhd"), publish.VHD, uuid(8), "reading version 1"},
		{"qemu-dynamic", convert(t, raw, "raw", at("qd.vhd"), "vpc", "subformat=dynamic,force_size=on"), publish.VHD, image.UUID{}, ""},
		{"qemu-fixed", convert(t, raw, "raw", at("qf.vhd"), "vpc", "subformat=fixed,force_size=on"), publish.VHD, image.UUID{}, ""},
	}
	var first publish.DiskResult
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			publishFile(t, l, test.name, at("base.vhd"))
			var warned warnings
			o := options(t, test.name, test.file)
			o.Warn = warned.add
			o.AllBlocks = true // no file system is on these disks, which would be warned of
			res, err := publish.Run(t.Context(), l.Admin, o)
			if err != nil {
				t.Fatal(err)
			}
			d := res.Disks[0]
			if res.Version != 2 || res.Unchanged || len(res.Disks) != 1 || d.Format != test.format || d.From != state || d.Blocks != 4 {
				t.Errorf("published as %+v", res)
			}
			if test.warning != "" && !warned.mention(test.warning) || test.warning == "" && len(warned) > 0 {
				t.Errorf("warned of %q", warned)
			}
			d.Format = ""
			if first.Layer.IsZero() {
				first = d
			}
			if diff := cmp.Diff(first, d); diff != "" {
				t.Errorf("not what %s gave (-%[1]s +%s):\n%s", tests[0].name, test.name, diff)
			}
			holds(t, l, test.name, 1, one)
			holds(t, l, test.name, 2, two)
			im, err := l.Admin.Image(t.Context(), test.name)
			if err != nil {
				t.Fatal(err)
			}
			// A plain copy of the file on a stick is recognised by these.
			uuids := im.Versions[1].Disks[0].VHDUUIDs
			if want := !test.uuid.IsZero(); want && (len(uuids) != 1 || uuids[0] != test.uuid) || test.format == publish.Raw && len(uuids) > 0 {
				t.Errorf("recognised by %v, want %v", uuids, test.uuid)
			}
			empty(t, o.Spool)
		})
	}
	// What qemu-img reads of the VHD is what was published of it.
	b, err := os.ReadFile(convert(t, at("full.vhd"), "vpc", at("back.raw"), "raw", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, content(t, l, "dynamic", 2, image.System)) {
		t.Error("qemu-img reads another disk")
	}
}

func TestUnchanged(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	disk := newDisk(1, 0)
	raw := writeRaw(t, filepath.Join(dir, "disk.raw"), disk)
	first := publishFile(t, l, "golden", raw)
	newVHD(t, filepath.Join(dir, "disk.vhd"), vhd.CreateOptions{UUID: uuid(1)}, disk)
	for _, file := range []string{raw, filepath.Join(dir, "disk.vhd")} {
		o := options(t, "golden", file)
		o.Note = "another note is no reason"
		res, err := publish.Run(t.Context(), l.Admin, o)
		if err != nil {
			t.Fatal(err)
		}
		if d := res.Disks[0]; !res.Unchanged || res.Version != 1 || !d.Unchanged || d.State != first.Disks[0].State || !d.Layer.IsZero() || d.Bytes != 0 {
			t.Errorf("%s: %+v", file, res)
		}
		empty(t, o.Spool)
	}
	if n := versions(t, l, "golden"); n != 1 {
		t.Errorf("%d versions", n)
	}
	// Of several disks only the one that changed is published; the other stays as it was.
	user := writeRaw(t, filepath.Join(dir, "user.raw"), newDisk(7))
	o := options(t, "golden", raw)
	o.Disks = append(o.Disks, publish.Disk{Role: image.User, Path: user})
	res, err := publish.Run(t.Context(), l.Admin, o)
	if err != nil || res.Version != 2 || res.Unchanged || !res.Disks[0].Unchanged || res.Disks[1].Unchanged || !res.Disks[1].From.IsZero() {
		t.Fatalf("%+v, %v", res, err)
	}
	holds(t, l, "golden", 2, disk)
	if got := content(t, l, "golden", 2, image.User); !bytes.Equal(got, newDisk(7)) {
		t.Error("the user disk is another")
	}
	// Back to what was: a version like any other.
	writeRaw(t, raw, newDisk(2, 0))
	publishFile(t, l, "golden", raw)
	writeRaw(t, raw, disk)
	if res := publishFile(t, l, "golden", raw); res.Version != 4 || res.Disks[0].State != first.Disks[0].State {
		t.Errorf("%+v", res)
	}
	holds(t, l, "golden", 3, newDisk(2, 0))
	holds(t, l, "golden", 4, disk)
}

// TestSizes: a disk grows and shrinks, also in the middle of a block, and what was cut off does not come back.
func TestSizes(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	const b, s = image.BlockSize, image.SectorSize
	full := newDisk(1, 2, 3)[:3*b]
	sizes := []int{2*b + 5*s, 3 * b, b + s, b, b - s, b + 9*s, s, 3 * b}
	for _, form := range []publish.Format{publish.Raw, publish.VHD} {
		t.Run(string(form), func(t *testing.T) {
			name := "line-" + string(form)
			var disks [][]byte
			disk := bytes.Clone(full[:sizes[0]])
			for i, size := range sizes {
				grown := make([]byte, size)
				copy(grown, disk) // what was cut off is zero when there is room again
				disk = grown
				file := filepath.Join(dir, fmt.Sprintf("%s-%d.%s", form, i, form))
				if form == publish.Raw {
					writeRaw(t, file, disk)
				} else {
					newVHD(t, file, vhd.CreateOptions{UUID: uuid(byte(i))}, disk)
				}
				res := publishFile(t, l, name, file)
				if d := res.Disks[0]; res.Version != image.Version(i+1) || d.Size != int64(size) || i > 0 && d.From.IsZero() {
					t.Errorf("size %d: %+v", size, res)
				}
				disks = append(disks, disk)
			}
			for i, want := range disks {
				holds(t, l, name, image.Version(i+1), want)
			}
		})
	}
	// A child may be larger or smaller than its parent.
	base := newVHD(t, filepath.Join(dir, "base.vhd"), vhd.CreateOptions{UUID: uuid(50)}, full)
	publishFile(t, l, "child", filepath.Join(dir, "base.vhd"))
	larger := append(bytes.Clone(full), newDisk(5)...)
	smaller := full[:b+7*s]
	newVHD(t, filepath.Join(dir, "larger.vhd"), child(51, base.UUID(), "base.vhd"), larger, base)
	newVHD(t, filepath.Join(dir, "smaller.vhd"), child(52, base.UUID(), "base.vhd"), smaller, base)
	publishFile(t, l, "child", filepath.Join(dir, "larger.vhd"))
	publishFile(t, l, "child", filepath.Join(dir, "smaller.vhd"))
	holds(t, l, "child", 1, full)
	holds(t, l, "child", 2, larger)
	holds(t, l, "child", 3, smaller)
}

// TestOddSizes: whatever number of bytes a raw file has, the disk has whole sectors.
func TestOddSizes(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	data := newDisk(1, 2)
	for _, n := range []int{1, 511, 512, 513, image.BlockSize - 1, image.BlockSize, image.BlockSize + 1, 2*image.BlockSize - 513} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			name := fmt.Sprintf("disk-%d", n)
			o := options(t, name, writeRaw(t, filepath.Join(dir, name+".raw"), data[:n]))
			var warned warnings
			o.Warn = warned.add
			res, err := publish.Run(t.Context(), l.Admin, o)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, (n+image.SectorSize-1)/image.SectorSize*image.SectorSize)
			copy(want, data[:n])
			if d := res.Disks[0]; d.Size != int64(len(want)) || (n%image.SectorSize != 0) != warned.mention("no whole number of sectors") {
				t.Errorf("%+v, warned of %q", res, warned)
			}
			holds(t, l, name, 1, want)
		})
	}
}

// TestEmptyDisks: a disk without data is a disk, a file without bytes is none.
func TestEmptyDisks(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	zeros := make([]byte, 2*image.BlockSize+512)
	newVHD(t, filepath.Join(dir, "zeros.vhd"), vhd.CreateOptions{UUID: uuid(1)}, zeros)
	writeRaw(t, filepath.Join(dir, "zeros.raw"), zeros)
	for _, form := range []string{"vhd", "raw"} {
		res := publishFile(t, l, form, filepath.Join(dir, "zeros."+form))
		if d := res.Disks[0]; d.Blocks != 0 || res.Unchanged {
			t.Errorf("%s: %+v", form, res)
		}
		holds(t, l, form, 1, zeros)
		// Something, and nothing again.
		publishFile(t, l, form, writeRaw(t, filepath.Join(dir, "data.raw"), newDisk(1)))
		if res := publishFile(t, l, form, filepath.Join(dir, "zeros."+form)); res.Version != 3 || res.Disks[0].Blocks != 1 {
			t.Errorf("%s: %+v", form, res)
		}
		holds(t, l, form, 2, newDisk(1))
		holds(t, l, form, 3, zeros)
	}
	refused(t, l, options(t, "nothing", writeRaw(t, filepath.Join(dir, "nothing.raw"), nil)), "DS-INPUT")
	refused(t, l, options(t, "nothing", writeRaw(t, filepath.Join(dir, "nothing.vhd"), nil)), "DS-INPUT")
	refused(t, l, options(t, "nothing", writeRaw(t, filepath.Join(dir, "nothing"), nil)), "DS-INPUT")
}

func TestParents(t *testing.T) {
	l := lab.Start(t)
	one, two := newDisk(1, 2), newDisk(1, 3)
	dir := t.TempDir()
	base := newVHD(t, filepath.Join(dir, "base.vhd"), vhd.CreateOptions{UUID: uuid(1)}, one)
	file := filepath.Join(t.TempDir(), "child.vhd") // not beside its parent
	newVHD(t, file, child(2, base.UUID(), "base.vhd"), two, base)

	refused(t, l, options(t, "golden", file), "DS-INPUT-PARENT")
	// A file of that name is not enough.
	newVHD(t, filepath.Join(filepath.Dir(file), "base.vhd"), vhd.CreateOptions{UUID: uuid(3)}, one)
	refused(t, l, options(t, "golden", file), "DS-INPUT-PARENT")
	// Neither is a version of another image, or one that was published from another file.
	publishFile(t, l, "other", filepath.Join(dir, "base.vhd"))
	writeRaw(t, filepath.Join(dir, "one.raw"), newDisk(8))
	publishFile(t, l, "golden", filepath.Join(dir, "one.raw"))
	refused(t, l, options(t, "golden", file), "DS-INPUT-PARENT")
	// The parent that was published is, be it the newest version or not.
	publishFile(t, l, "golden", filepath.Join(dir, "base.vhd"))
	publishFile(t, l, "golden", filepath.Join(dir, "one.raw"))
	if res := publishFile(t, l, "golden", file); res.Version != 4 {
		t.Errorf("%+v", res)
	}
	holds(t, l, "golden", 4, two)

	// A parent that was changed in place and published again: nobody knows which content the child belongs to.
	newVHD(t, filepath.Join(dir, "base.vhd"), vhd.CreateOptions{UUID: uuid(1)}, newDisk(5, 5))
	publishFile(t, l, "golden", filepath.Join(dir, "base.vhd"))
	o := options(t, "golden", file)
	var warned warnings
	o.Warn = warned.add
	refused(t, l, o, "DS-INPUT-PARENT")
	if !warned.mention("different contents") {
		t.Errorf("warned of %q", warned)
	}
}

func TestNamesAndSettings(t *testing.T) {
	l := lab.Start(t)
	file := writeRaw(t, filepath.Join(t.TempDir(), "disk.raw"), newDisk(1))
	for _, name := range []string{"", ".", "..", "a/b", "../x", "-x", ".x", "a b", "a\n", "zo\u00eb", strings.Repeat("a", 65), "a%2fb", "a?b"} {
		refused(t, l, options(t, name, file), "DS-USAGE")
	}
	o := options(t, "golden", file)
	o.Note = strings.Repeat("x", api.MaxNote+1)
	refused(t, l, o, "DS-USAGE")
	o.Note, o.Mode = strings.Repeat("x", api.MaxNote), image.Dynamic
	if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
		t.Fatal(err)
	}
	im, err := l.Admin.Image(t.Context(), "golden")
	if err != nil || im.Mode != image.Dynamic || im.Versions[0].Note != o.Note {
		t.Errorf("%+v, %v", im, err)
	}
	writeRaw(t, file, newDisk(2))
	o.Mode = image.Static
	refused(t, l, o, "DS-CONFLICT")
	o.Mode, o.Spool = "", filepath.Join(t.TempDir(), "missing")
	refused(t, l, o, "DS-FAILED")
	refused(t, l, options(t, "golden", filepath.Join(t.TempDir(), "missing.raw")), "DS-INPUT-MISSING")
	refused(t, l, options(t, "golden", t.TempDir()), "DS-INPUT")
}

// TestDamagedVHD: damage is never published as zeros.
func TestDamagedVHD(t *testing.T) {
	l := lab.Start(t)
	name := filepath.Join(t.TempDir(), "disk.vhd")
	newVHD(t, name, vhd.CreateOptions{UUID: uuid(1)}, newDisk(1, 2))
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const header, table = 512, 1536
	tests := map[string]func(b []byte) []byte{
		"header":            func(b []byte) []byte { b[header+20]++; return b },
		"block table":       func(b []byte) []byte { copy(b[table:], "\x7f\xff\xff\xf0"); return b },
		"two blocks in one": func(b []byte) []byte { copy(b[table+4:table+8], b[table:table+4]); return b },
		"cut":               func(b []byte) []byte { return b[:len(b)/2] },
		"both footers":      func(b []byte) []byte { b[70]++; b[len(b)-512+71]++; return b },
		"no footer":         func(b []byte) []byte { clear(b[:512]); clear(b[len(b)-512:]); return b },
		"random bytes":      func(b []byte) []byte { lab.Fill(b, 9); return b },
	}
	for what, damage := range tests {
		t.Run(what, func(t *testing.T) {
			refused(t, l, options(t, "golden", writeRaw(t, name, damage(bytes.Clone(good)))), "DS-INPUT")
		})
	}
	// What an unclean shutdown leaves behind is no damage.
	var warned warnings
	o := options(t, "golden", writeRaw(t, name, good[:len(good)-512]))
	o.Warn = warned.add
	if _, err := publish.Run(t.Context(), l.Admin, o); err != nil || len(warned) == 0 {
		t.Errorf("%v, warned of %q", err, warned)
	}
	holds(t, l, "golden", 1, newDisk(1, 2))
}

// TestOtherFormats: what only looks like a raw disk is not taken for one, unless somebody says so.
func TestOtherFormats(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	disk := newDisk(1)
	raw := writeRaw(t, filepath.Join(dir, "disk.raw"), disk)
	for _, format := range []string{"qcow2", "vhdx", "vmdk", "vdi", "qed"} {
		for _, name := range []string{"x-" + format, "x-" + format + ".img"} {
			refused(t, l, options(t, "golden", convert(t, raw, "raw", filepath.Join(dir, name), format, "")), "DS-INPUT")
		}
	}
	for magic, name := range map[string]string{
		"\x1f\x8b\x08": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz", "BZh9": "bzip2", "PK\x03\x04": "zip",
	} {
		file := writeRaw(t, filepath.Join(dir, name+".img"), append([]byte(magic), disk...))
		refused(t, l, options(t, "golden", file), "DS-INPUT")
	}
	fixed := convert(t, raw, "raw", filepath.Join(dir, "fixed.raw"), "vpc", "subformat=fixed,force_size=on")
	refused(t, l, options(t, "golden", fixed), "DS-INPUT")

	as := func(name, file string, f publish.Format) {
		t.Helper()
		o := options(t, name, file)
		o.Disks[0].Format = f
		if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
			t.Fatal(err)
		}
	}
	as("said-vhd", fixed, publish.VHD)
	holds(t, l, "said-vhd", 1, disk)
	as("said-raw", fixed, publish.Raw)
	b, err := os.ReadFile(fixed)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, l, "said-raw", 1, b)
	as("no-ending", writeRaw(t, filepath.Join(dir, "plain"), b), publish.Auto)
	holds(t, l, "no-ending", 1, disk)
	o := options(t, "golden", raw)
	o.Disks[0].Format = publish.VHD
	refused(t, l, o, "DS-INPUT")
	for name, want := range map[string]publish.Format{"": publish.Auto, "vhd": publish.VHD, "raw": publish.Raw} {
		if f, err := publish.ParseFormat(name); f != want || err != nil {
			t.Errorf("%q: %v, %v", name, f, err)
		}
	}
	if _, err := publish.ParseFormat("qcow2"); err == nil {
		t.Error("qcow2 is a format")
	}
}

// TestChangingSource: a disk that somebody writes to while it is read may never have been what was read of it.
func TestChangingSource(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	disk := newDisk(1, 2)
	base := newVHD(t, filepath.Join(dir, "base.vhd"), vhd.CreateOptions{UUID: uuid(1)}, disk)
	newVHD(t, filepath.Join(dir, "child.vhd"), child(2, base.UUID(), "base.vhd"), newDisk(1, 5), base)
	writeRaw(t, filepath.Join(dir, "disk.raw"), disk)
	write := func(name string) error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("new"), image.BlockSize/2)
		return errors.Join(err, f.Close())
	}
	for what, test := range map[string]struct {
		file, changed string
		change        func(name string) error
	}{
		"written to":      {"disk.raw", "disk.raw", write},
		"cut":             {"disk.raw", "disk.raw", func(name string) error { return os.Truncate(name, image.BlockSize+512) }},
		"longer":          {"disk.raw", "disk.raw", func(name string) error { return os.Truncate(name, 9*image.BlockSize) }},
		"removed":         {"disk.raw", "disk.raw", os.Remove},
		"replaced":        {"disk.raw", "disk.raw", func(name string) error { return os.Rename(filepath.Join(dir, "base.vhd"), name) }},
		"VHD written to":  {"base.vhd", "base.vhd", write},
		"leaf written to": {"child.vhd", "child.vhd", write},
		"its parent":      {"child.vhd", "base.vhd", write},
	} {
		t.Run(what, func(t *testing.T) {
			work := t.TempDir()
			for _, name := range []string{"base.vhd", "child.vhd", "disk.raw"} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				writeRaw(t, filepath.Join(work, name), b)
				// A change within the grain of the clock of the file system cannot be seen.
				long := time.Now().Add(-time.Hour)
				if err := os.Chtimes(filepath.Join(work, name), long, long); err != nil {
					t.Fatal(err)
				}
			}
			if what == "replaced" {
				test.change = func(name string) error { return os.Rename(filepath.Join(work, "base.vhd"), name) }
			}
			o := options(t, "golden", filepath.Join(work, test.file))
			changes := 0
			o.Progress = func(string, int64, int64) {
				if changes++; changes == 1 {
					if err := test.change(filepath.Join(work, test.changed)); err != nil {
						t.Error(err)
					}
				}
			}
			refused(t, l, o, "DS-CONFLICT")
			if changes == 0 {
				t.Error("nothing was changed")
			}
		})
	}
}

// TestInterrupted: what was under way when somebody had enough is not to be seen, and not sent again.
func TestInterrupted(t *testing.T) {
	l := lab.Start(t)
	disk := lab.Disk(1, 2, 3, 4, 5, 6, 7, 8, 9) // two pieces of an upload
	file := writeRaw(t, filepath.Join(t.TempDir(), "disk.raw"), disk)
	enough := errors.New("enough")
	for _, stage := range []string{"pack system", "upload system", "verify system"} {
		t.Run(stage, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			o := options(t, "golden", file)
			reached := false
			o.Progress = func(at string, _, _ int64) {
				if at == stage {
					reached = true
					cancel(enough)
				}
			}
			res, err := publish.Run(ctx, l.Admin, o)
			if !reached || !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
				t.Errorf("%+v, %v, reached: %v", res, err, reached)
			}
			if n := versions(t, l, "golden"); n != 0 {
				t.Errorf("%d versions", n)
			}
			empty(t, o.Spool)
		})
	}
	sent := l.Admin.Bytes()
	res := publishFile(t, l, "golden", file)
	if sent = l.Admin.Bytes() - sent; sent > res.Disks[0].Bytes/10 {
		t.Errorf("%d bytes were sent for a layer of %d that was there", sent, res.Disks[0].Bytes)
	}
	holds(t, l, "golden", 1, disk)
	for _, name := range stored(t, l) {
		if !strings.HasSuffix(name, ".dsl") {
			t.Errorf("%s was left", name)
		}
	}
}

// TestSealedMeanwhile: two publish the next version at once; one of them does, and the other is told.
func TestSealedMeanwhile(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	first := writeRaw(t, filepath.Join(dir, "1.raw"), newDisk(1))
	second := writeRaw(t, filepath.Join(dir, "2.raw"), newDisk(2))
	o := options(t, "golden", first)
	done := false
	o.Progress = func(string, int64, int64) {
		if !done {
			done = true
			publishFile(t, l, "golden", second)
		}
	}
	if res, err := publish.Run(t.Context(), l.Admin, o); syncclient.Code(err) != api.CodeConflict {
		t.Errorf("%+v, %v", res, err)
	}
	holds(t, l, "golden", 1, newDisk(2))
	if res := publishFile(t, l, "golden", first); res.Version != 2 {
		t.Errorf("%+v", res)
	}
	holds(t, l, "golden", 2, newDisk(1))
}
