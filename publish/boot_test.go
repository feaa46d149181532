package publish_test

import (
	"path/filepath"
	"slices"
	"testing"

	"disksync/image"
	"disksync/internal/testkit/lab"
	"disksync/publish"
)

// TestBootTrace: a boot set is published with a disk or for one that is there, later versions inherit what of it is still valid, and one
// that does not fit is refused.
func TestBootTrace(t *testing.T) {
	l := lab.Start(t)
	dir := t.TempDir()
	publishBoot := func(d []byte, boot ...int) {
		t.Helper()
		o := options(t, "booted", writeRaw(t, filepath.Join(dir, "disk.raw"), d))
		if boot != nil {
			o.Boot = image.BootTrace{image.System: boot}
		}
		if _, err := publish.Run(t.Context(), l.Admin, o); err != nil {
			t.Fatal(err)
		}
	}
	check := func(v image.Version, want ...int) {
		t.Helper()
		env, err := l.Admin.Manifest(t.Context(), "booted", v)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Admin.Server(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m, err := image.VerifyManifest(env, s.SigningKey)
		if err != nil {
			t.Fatal(err)
		}
		d, _ := m.Manifest().Disk(image.System)
		if !slices.Equal(d.Boot, want) {
			t.Errorf("version %d has the boot set %v, want %v", v, d.Boot, want)
		}
	}
	whole := newDisk(1, 2, 3, 4)
	publishBoot(whole)
	check(1)
	publishBoot(whole, 3, 0) // the disk as it is
	check(2, 3, 0)
	short := newDisk(1, 2, 5)
	publishBoot(short[:3*image.BlockSize])
	check(3, 0)
	publishBoot(newDisk(1, 2, 6), 2, 1)
	check(4, 2, 1)
	publishBoot(newDisk(1, 2, 6), 2, 1, 0)
	check(5, 2, 1, 0)
	o := options(t, "booted", writeRaw(t, filepath.Join(dir, "disk.raw"), newDisk(1)))
	o.Boot = image.BootTrace{image.System: {4000}}
	refused(t, l, o, "DS-USAGE")
}
