package media_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/media"
)

// mount mounts an image, where the test may, and returns what unmounts it.
func mount(t *testing.T, dir string, command ...string) func() {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, command[0]), append(command[1:], dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	mounted := true
	unmount := func() {
		runtime.GC() // folders that nobody uses any more are closed then; a command ends instead
		runtime.GC()
		if out, err := exec.Command("umount", dir).CombinedOutput(); mounted && err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
		mounted = false
	}
	t.Cleanup(unmount)
	return unmount
}

// TestFileSystems writes to sticks with the file systems that they have, and reads them back when they were unplugged meanwhile.
func TestFileSystems(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Disk(1, 2, 3, 4), lab.Disk(1, 5, 3, 4))
	for _, fs := range []struct{ name, make, mount string }{
		{"ext4", "mkfs.ext4", "mount"}, {"NTFS", "mkntfs -F -Q", "ntfs-3g"}, {"exFAT", "mkfs.exfat", "mount.exfat-fuse"},
	} {
		t.Run(fs.name, func(t *testing.T) {
			img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
			if f, err := os.Create(img); err != nil || f.Truncate(32<<20) != nil || f.Close() != nil {
				t.Fatal(err)
			}
			words := slices.Concat(strings.Fields(fs.make), []string{img})
			if out, err := exec.Command(testkit.Tool(t, words[0]), words[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out, err := exec.Command(testkit.Tool(t, "losetup"), "--find", "--show", img).Output()
			if err != nil {
				t.Skipf("no device can be made here: %v", err)
			}
			dev := strings.TrimSpace(string(out))
			t.Cleanup(func() {
				if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
					t.Errorf("losetup: %v: %s", err, out)
				}
			})
			plugIn := func() func() { return mount(t, dir, slices.Concat(strings.Fields(fs.mount), []string{dev})...) }
			unplug := plugIn()
			s.write(t, 1, dir)
			// Unplugged in the middle of the second file.
			put(t, dir, s.files[1].Name+".tmp", good(t, s.Path(1))[:10_000])
			unplug()
			unplug = plugIn()
			if res := s.write(t, 2, dir); !slices.Equal(written(res), []bool{false, true}) {
				t.Errorf("result %+v", res)
			}
			unplug()
			plugIn()
			s.check(t, 2, dir)
			v, err := media.Verify(t.Context(), media.VerifyOptions{Path: dir, Key: s.Server.SigningKey()})
			if err != nil || len(v.Files) != 4 {
				t.Errorf("verdict %+v, %v", v, err)
			}
			// A medium without room takes nothing, and says so before.
			before := names(t, dir)
			put(t, dir, "full", string(make([]byte, 16<<20)))
			_, err = media.WritePlain(t.Context(), s.Admin, media.Options{Want: want(2), Dir: dir})
			if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-SPACE" || len(names(t, dir)) != len(before)+1 {
				t.Errorf("a full medium: %v, %v", err, names(t, dir))
			}
		})
	}
}
