package exfat_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"disksync/volume/exfat"
	"disksync/volume/volumetest"
)

// copyTree copies a folder with the programs of the system.
func copyTree(t testing.TB, src, dst string) {
	t.Helper()
	volumetest.Run(t, "cp", "-r", src+"/.", dst)
}

// TestExFAT: everything that the FUSE file system wrote is there, byte for byte.
func TestExFAT(t *testing.T) {
	for i, args := range []string{"-c 4096", "-c 32768", "-c 512", "-c 1M"} {
		t.Run("mkfs"+args, func(t *testing.T) {
			src, many := t.TempDir(), 100
			if i == 0 {
				many = 2000
			}
			volumetest.Files(t, src, many)
			volumetest.Put(t, src, volumetest.Planes, 777)
			img := volumetest.Image(t, 64<<20)
			if args == "-c 1M" {
				if err := os.Truncate(img, 3000<<20); err != nil {
					t.Fatal(err)
				}
			}
			volumetest.Run(t, "mkfs.exfat", append(strings.Fields(args), "-L", "MEDIUM ÄÖ", img)...)
			volumetest.Mounted(t, func(dir string) { copyTree(t, src, dir) }, "mount.exfat-fuse", volumetest.Loop(t, img))
			v := volumetest.Open(t, img, exfat.Open)
			volumetest.Compare(t, v, src)
			info := v.Info()
			id := strings.TrimSpace(volumetest.Run(t, "blkid", "-p", "-o", "value", "-s", "UUID", img))
			if want := fmt.Sprintf("{exfat MEDIUM ÄÖ %s %d }", id, info.BlockSize); fmt.Sprint(info) != want {
				t.Errorf("%+v, want %s", info, want)
			}
		})
	}
}
