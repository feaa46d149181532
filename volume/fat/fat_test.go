package fat_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume/fat"
	"disksync/volume/volumetest"
)

// kinds are volumes as mkfs.fat makes them.
var kinds = []struct {
	name string
	mib  int64
	args string
}{
	{"fat12", 15, "-F 12 -s 8"},
	{"fat16", 64, "-F 16"},
	{"fat16-one-fat", 64, "-F 16 -f 1 -r 1024"},
	{"fat16-4k-sectors", 300, "-F 16 -S 4096"},
	{"fat32", 64, "-F 32"},
	{"fat32-small-clusters", 64, "-F 32 -s 1"},
	{"fat32-large-clusters", 4400, "-F 32 -s 128"},
	{"fat32-4k-sectors", 300, "-F 32 -S 4096 -s 1"},
}

// fill copies a folder to a volume.
func fill(t testing.TB, img, src string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(src, "*"))
	if err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "mcopy", append(append([]string{"-s", "-Q", "-m", "-i", img}, names...), "::")...)
}

// TestFAT: everything that mtools wrote is there, byte for byte.
func TestFAT(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	volumetest.Files(t, src, 150)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			img := volumetest.Image(t, k.mib<<20)
			volumetest.Run(t, "mkfs.fat", append(strings.Fields(k.args), "-n", "MEDIUM 1", "-i", "1234ABCD", img)...)
			fill(t, img, src)
			v := volumetest.Open(t, img, fat.Open)
			volumetest.Compare(t, v, src)
			info := v.Info()
			if want := fmt.Sprintf("{vfat MEDIUM 1 1234-ABCD %d }", info.BlockSize); fmt.Sprint(info) != want {
				t.Errorf("%+v", info)
			}
		})
	}
}
