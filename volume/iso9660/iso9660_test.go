package iso9660_test

import (
	"path/filepath"
	"strings"
	"testing"

	"disksync/volume"
	"disksync/volume/iso9660"
	"disksync/volume/volumetest"
)

func open(t testing.TB, name string) volume.Volume {
	t.Helper()
	return volumetest.Open(t, name, iso9660.Open)
}

// TestTools: what other programs write is read as the folder that they were given, with the names of Rock Ridge and of Joliet; deep
// folders are where they were before they were moved.
func TestTools(t *testing.T) {
	t.Parallel()
	src := volumetest.Source(t)
	short := volumetest.Source(t, volumetest.NoPlanes, volumetest.NoLinks, volumetest.NoDeep, volumetest.NoSemicolon)
	for name, c := range map[string]struct {
		src  string
		args []string
	}{
		"genisoimage Rock Ridge": {src, []string{"genisoimage", "-quiet", "-R", "-V", "Label of it", "-input-charset", "utf-8"}},
		"genisoimage all":        {short, []string{"genisoimage", "-quiet", "-R", "-J", "-joliet-long", "-V", "LABEL", "-input-charset", "utf-8"}},
		"genisoimage Joliet":     {short, []string{"genisoimage", "-quiet", "-J", "-joliet-long", "-V", "größer als sechzehn", "-input-charset", "utf-8"}},
		"xorriso Rock Ridge":     {src, []string{"xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "LABEL"}},
		"xorriso deep":           {src, []string{"xorriso", "-as", "mkisofs", "-quiet", "-R", "-disallow_dir_id_ext", "-V", "LABEL"}},
		"xorriso Joliet":         {short, []string{"xorriso", "-as", "mkisofs", "-quiet", "--norock", "-J", "-joliet-long", "-V", "LABEL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := filepath.Join(t.TempDir(), "disc.iso")
			volumetest.Run(t, c.args[0], append(append(c.args[1:len(c.args):len(c.args)], "-o", img), c.src)...)
			v := open(t, img)
			volumetest.Compare(t, withoutMoved{v}, c.src)
			sameAsBlkid(t, img, v.Info())
		})
	}
}

// withoutMoved hides the empty folder that genisoimage moves deep folders to.
type withoutMoved struct{ volume.Volume }

func (w withoutMoved) ReadDir(dir string) ([]volume.Entry, error) {
	list, err := w.Volume.ReadDir(dir)
	for i, e := range list {
		if dir == "." && e.Name == "rr_moved" {
			if inside, err := w.Volume.ReadDir(e.Name); err == nil && len(inside) == 0 {
				return append(list[:i], list[i+1:]...), err
			}
		}
	}
	return list, err
}

// sameAsBlkid compares what a volume says of itself.
func sameAsBlkid(t *testing.T, img string, got volume.Info) {
	t.Helper()
	said := map[string]string{}
	for line := range strings.Lines(volumetest.Run(t, "blkid", "-p", "-o", "export", img)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = strings.ReplaceAll(value, `\ `, " ")
	}
	want := volume.Info{Type: said["TYPE"], Label: said["LABEL"], ID: said["UUID"], BlockSize: 2048}
	if strings.Contains(want.Label, "M-") { // as blkid writes what is not ASCII
		want.Label = got.Label
	}
	if got != want {
		t.Errorf("%+v, blkid says %+v", got, want)
	}
}
