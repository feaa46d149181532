package media_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/cache"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/media"
	"disksync/vhd/vhdfile"
)

// TestPlain writes versions as plain VHD files, which other programs and endpoints read.
func TestPlain(t *testing.T) {
	t.Parallel()
	qemu := testkit.Tool(t, "qemu-img")
	first, second := lab.Disk(1, 0, 2, 3), lab.Disk(1, 4, 2, 0)
	copy(second[:image.SectorSize], "a change of one sector")
	s := open(t, first, second, lab.Disk(1, 4, 2, 0, 5))
	dir := t.TempDir()
	res, err := media.WritePlain(t.Context(), s.Admin, media.Options{Want: want(3), Dir: dir})
	if err != nil || !slices.Equal(written(res), []bool{true, true, true}) {
		t.Fatalf("result %+v, %v", res, err)
	}
	for i, want := range s.disks {
		d, err := vhdfile.OpenChain(res.Files[i].Path, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("version %d reads otherwise: %v", i+1, err)
		}
		d.Close()
	}
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command(qemu, "convert", "-f", "vpc", "-O", "raw", res.Files[0].Path, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b, err := os.ReadFile(raw); err != nil || !bytes.Equal(b[:len(first)], first) {
		t.Errorf("qemu-img reads another disk: %v", err)
	}
	inv, err := cache.Scan(t.Context(), cache.Medium{Kind: cache.USB, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	if !strings.Contains(inv.Summary(), "3 VHD files") {
		t.Errorf("an endpoint finds %s", inv.Summary())
	}
	// Only what differs is in a child: a change of a sector in a block makes no copy of the block.
	if st, err := os.Stat(res.Files[1].Path); err != nil || st.Size() > 3*image.BlockSize+100_000 {
		t.Errorf("the child has %d bytes, %v", st.Size(), err)
	}
	t.Run("again", func(t *testing.T) {
		before := identities(t, dir)
		res, err := media.WritePlain(t.Context(), s.Admin, media.Options{Want: want(3), Dir: dir})
		if err != nil || slices.Contains(written(res), true) || len(before) != 4 {
			t.Errorf("result %+v, %v", res, err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		b := []byte(good(t, res.Files[0].Path))
		b[len(b)/2] ^= 1
		put(t, dir, filepath.Base(res.Files[0].Path), string(b))
		_, err := media.Verify(t.Context(), media.VerifyOptions{Path: dir})
		if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-DAMAGED" {
			t.Errorf("verify: %v", err)
		}
		res, err := media.WritePlain(t.Context(), s.Admin, media.Options{Want: want(3), Dir: dir})
		if err != nil || !slices.Equal(written(res), []bool{true, false, false}) {
			t.Errorf("result %+v, %v", res, err)
		}
		if v, err := media.Verify(t.Context(), media.VerifyOptions{Path: dir}); err != nil || len(v.Files) != 4 {
			t.Errorf("verdict %+v, %v", v, err)
		}
	})
}
