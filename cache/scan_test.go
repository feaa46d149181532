package cache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
	"disksync/vhd"
)

const nothing = "nothing of use"

// changed returns b with the byte at off changed; a negative off counts from the end.
func changed(b []byte, off int) []byte {
	b = bytes.Clone(b)
	if off < 0 {
		off += len(b)
	}
	b[off] ^= 0x41
	return b
}

// TestScan: what is of use is found by its content, whatever it is called and wherever it lies as far as two folders down, and
// what it gives is what is wanted.
func TestScan(t *testing.T) {
	g := get(t)
	v1 := blocks(g.full.state)
	both := blocks(g.full.state, g.diff.state)
	changes := map[image.Digest]bool{}
	for i := range g.diff.Len() {
		if d := g.diff.Frame(i).Digest; !d.IsZero() {
			changes[d] = true
		}
	}
	without := func(all map[image.Digest]bool, d image.Digest) map[image.Digest]bool {
		out := map[image.Digest]bool{}
		for k := range all {
			if k != d {
				out[k] = true
			}
		}
		return out
	}
	first, last := g.full.Frame(0), g.full.Frame(g.full.Len()-1)
	beyond := bytes.Clone(g.base) // its block 1 is said to be far away
	table := binary.BigEndian.Uint64(beyond[512+16:])
	binary.BigEndian.PutUint32(beyond[table+4:], 1<<30)
	for _, c := range []struct {
		name  string
		files map[string][]byte
		found string
		good  map[image.Digest]bool
		bad   int
		note  string // part of one; "": there is none
	}{
		{"an empty medium", nil, nothing, nil, 0, ""},
		{"a layer", map[string][]byte{"v1": g.full.file}, "1 layer", v1, 0, ""},
		{"two layers", map[string][]byte{"v1": g.full.file, "v2": g.diff.file}, "2 layers", both, 0, ""},
		{"a difference alone", map[string][]byte{"v2": g.diff.file}, "1 layer", changes, 0, ""},
		{"two folders down", map[string][]byte{"a/b/v1": g.full.file}, "1 layer", v1, 0, ""},
		{"three folders down", map[string][]byte{"a/b/c/v1": g.full.file}, nothing, nil, 0, ""},
		{
			"any names", map[string][]byte{" -rf\n*\x1b[2J.jpg": g.full.file, ".hidden/$(x)/naïve 漢字\xff": g.diff.file},
			"2 layers", both, 0, "",
		},
		{"the same twice", map[string][]byte{"a": g.full.file, "b": g.full.file, "c/a": g.base, "c/b": g.base}, "1 layer, 1 VHD file", v1, 0, ""},
		{"a VHD file", map[string][]byte{"disk.vhd": g.base}, "1 VHD file", v1, 0, ""},
		{"a fixed disk", map[string][]byte{"disk.img": g.fixed}, "1 VHD file", v1, 0, ""},
		{"a fixed disk with a short footer", map[string][]byte{"x": g.fixed[:len(g.fixed)-1]}, "1 VHD file", v1, 0, ""},
		{"a chain", map[string][]byte{"b.vhd": g.base, "c.vhd": g.child}, "2 VHD files", both, 0, ""},
		{"a chain over folders", map[string][]byte{"x/y/b.vhd": g.base, "z/c": g.child}, "2 VHD files", both, 0, ""},
		{"a chain without its parent", map[string][]byte{"c.vhd": g.child}, "1 VHD file", nil, 0, "c.vhd: "},
		{"a layer for one version, a chain for both", map[string][]byte{"v2": g.diff.file, "b": g.base, "c": g.child}, "1 layer, 2 VHD files", both, 0, ""},
		{
			"strangers", map[string][]byte{
				"empty": {}, "short": g.full.file[:15], "text": []byte("conectix"), "zeros": make([]byte, 1<<20), "disk.vhd": make([]byte, 511),
				"layer.dsl": bytes.Repeat([]byte("\x89DSK"), 500), "odd": append([]byte{1}, g.base[512:]...), "photo.jpg": []byte("\xff\xd8\xff\xe0 and so on, and so on"),
			}, nothing, nil, 0, "",
		},
		{"a part", map[string][]byte{"part": g.full.file[:first.Offset+int64(first.Length)]}, "1 part of a layer", map[image.Digest]bool{first.Digest: true}, 0, ""},
		{"a part without a whole frame", map[string][]byte{"part": g.full.file[:first.Offset+int64(first.Length)-1]}, "1 part of a layer", nil, 0, ""},
		{
			"two parts, the longer one later", map[string][]byte{"1": g.full.file[:first.Offset+int64(first.Length)], "2": g.full.file[:last.Offset]},
			"2 parts of layers", without(v1, last.Digest), 0, "",
		},
		{"a layer without its trailer", map[string][]byte{"x": changed(g.full.file, -1)}, "1 part of a layer", v1, 0, ""},
		{"a layer of a newer format", map[string][]byte{"x": changed(g.full.file, 11)}, "1 part of a layer", v1, 0, ""},
		{"a layer with a damaged index", map[string][]byte{"x": changed(g.full.file, int(g.full.IndexOffset())+20)}, "1 layer", v1, 0, ""},
		{
			"a layer with a damaged frame", map[string][]byte{"x": changed(g.full.file, int(last.Offset)+last.Length/2)},
			"1 layer", without(v1, last.Digest), 1, "",
		},
		{"a layer that bears another's name", map[string][]byte{"x": append(bytes.Clone(g.full.file[:len(g.full.file)-64]), g.diff.file[len(g.diff.file)-64:]...)},
			"1 part of a layer", v1, 0, ""},
		{
			"a VHD file with a block that is not there", map[string][]byte{"x": beyond},
			"1 VHD file", without(v1, g.full.state.Blocks[1]), 0, "",
		},
		{"a VHD file without its last footer", map[string][]byte{"x": changed(g.base, -400)}, "1 VHD file", v1, 0, ""},
		{"a VHD file without footers", map[string][]byte{"x": changed(changed(g.base, -400), 40)}, nothing, nil, 0, "x: "},
		{"a VHD file without a header", map[string][]byte{"x": changed(g.base, 600)}, nothing, nil, 0, "x: "},
		{
			"a VHD file with another content", map[string][]byte{"x": changed(g.base, bytes.Index(g.base, g.disk1[block+2*4096:][:3000]))},
			"1 VHD file", without(v1, g.full.state.Blocks[1]), 1, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, b := range c.files {
				write(t, dir, name, b)
			}
			inv := scan(t, dir)
			if inv.Summary() != c.found {
				t.Errorf("found %s, want %s", inv.Summary(), c.found)
			}
			w := g.wanted()
			h := fetch(t, inv.Source(w), w)
			if c.good == nil {
				c.good = map[image.Digest]bool{}
			}
			if diff := cmp.Diff(c.good, h.good); diff != "" || h.err != nil {
				t.Errorf("good blocks: %s %v, bad %v", diff, h.err, h.bad)
			}
			if len(h.bad) != c.bad {
				t.Errorf("%d bad blocks, want %d: %v", len(h.bad), c.bad, h.bad)
			}
			notes := strings.Join(inv.Notes, "\n")
			if c.note == "" && notes != "" || !strings.Contains(notes, c.note) {
				t.Errorf("notes %q, want one with %q", notes, c.note)
			}
		})
	}
}

// TestIndex: a medium's index counts only when it is whole and bears the name that is asked for.
func TestIndex(t *testing.T) {
	g := get(t)
	dir := t.TempDir()
	write(t, dir, "good", g.full.file)
	write(t, dir, "bad", changed(g.diff.file, int(g.diff.IndexOffset())+20))
	inv := scan(t, dir)
	if x, ok := inv.Index(g.full.ID()); !ok || !bytes.Equal(x.Bytes(), g.full.Bytes()) {
		t.Error("the good index is not there")
	}
	if !inv.HasLayer(g.diff.ID()) {
		t.Fatal("the damaged layer was not recognised, so this tests nothing")
	}
	if _, ok := inv.Index(g.diff.ID()); ok {
		t.Error("a damaged index was read")
	}
	if inv.HasLayer(g.diff.ID()) || len(inv.Notes) != 1 || !strings.HasPrefix(inv.Notes[0], "bad: ") {
		t.Errorf("it still counts as a layer, or nobody is told: %q", inv.Notes)
	}
	if _, ok := inv.Index(image.LayerID{1}); ok {
		t.Error("an index from nowhere")
	}
	if diff := cmp.Diff([]image.LayerID{g.full.ID()}, inv.Layers()); diff != "" {
		t.Error(diff)
	}
	if inv.HasVHD(g.uuid1) {
		t.Error("a VHD file from nowhere")
	}
}

// TestOtherLayers: layers of other images give the blocks that they share with what is wanted.
func TestOtherLayers(t *testing.T) {
	g := get(t)
	dir := t.TempDir()
	other, err := pack(image.State{}, disk(9, 2, 8))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "other", other.file)
	inv := scan(t, dir)
	w := g.wanted()
	h := fetch(t, inv.Source(w), w)
	// The tails are alike as well.
	if diff := cmp.Diff(map[image.Digest]bool{g.full.state.Blocks[1]: true, g.full.state.Blocks[4]: true}, h.good); diff != "" {
		t.Error(diff)
	}
}

// TestHostileNames: links lead nowhere, and what is no regular file is not opened: opening a pipe would wait for its writer.
func TestHostileNames(t *testing.T) {
	g := get(t)
	outside := t.TempDir()
	secret := write(t, outside, "secret", g.full.file)
	dir := t.TempDir()
	write(t, dir, "inside/layer", g.diff.file)
	for name, target := range map[string]string{
		"absolute": secret, "relative": "../" + filepath.Base(outside) + "/secret", "folder": outside, "within": "inside/layer", "itself": "itself",
		"up": "..", "gone": "nowhere", "device": "/dev/zero", "descriptor": "/proc/self/fd/0",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o666, 0); err != nil {
		t.Fatal(err)
	}
	// Only root may make devices; anybody else's media have none either.
	if err := unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil && os.Geteuid() == 0 && !errors.Is(err, syscall.EPERM) {
		t.Fatal(err)
	}
	inv := scan(t, dir)
	if inv.Summary() != "1 layer" || inv.HasLayer(g.full.ID()) {
		t.Errorf("found %s", inv.Summary())
	}

	// Between the listing and the opening of a name it may become anything.
	for _, old := range []bool{false, true} {
		f, err := cache.OpenFolder(dir, old)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Beneath() == old {
			t.Errorf("openat2 is used: %v", !old)
		}
		for _, name := range []string{
			"absolute", "relative", "folder", "within", "itself", "up", "gone", "device", "pipe", "socket", "zero", "inside", "descriptor",
			"../" + filepath.Base(outside) + "/secret", secret, "folder/secret", "up/x",
		} {
			if _, err := f.Open(name); err == nil {
				t.Errorf("%s was opened", name)
			}
			if _, err := f.ReadDir(name); err == nil && name != "inside" {
				t.Errorf("%s was listed", name)
			}
		}
		o, err := f.Open("inside/layer")
		if err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
}

// TestUnreadable: what cannot be read is passed over with a note, and the rest is found.
func TestUnreadable(t *testing.T) {
	g := get(t)
	dir := t.TempDir()
	write(t, dir, "locked", g.full.file)
	write(t, dir, "folder/inside", g.full.file)
	write(t, dir, "open", g.diff.file)
	for _, name := range []string{"locked", "folder"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "folder"), 0o700) }) // so that it can be removed
	inv := scan(t, dir)
	if !inv.HasLayer(g.diff.ID()) {
		t.Error("the readable file was not found")
	}
	readable := os.Geteuid() == 0 // permissions do not concern root
	if inv.HasLayer(g.full.ID()) != readable || (len(inv.Notes) == 2) == readable {
		t.Errorf("found %s, notes %q", inv.Summary(), inv.Notes)
	}
	if _, err := cache.Scan(t.Context(), cache.Medium{Dir: filepath.Join(dir, "nowhere")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a medium that is not there: %v", err)
	}
	if _, err := cache.Scan(t.Context(), cache.Medium{Dir: filepath.Join(dir, "open")}); err == nil {
		t.Error("a file was read as a medium")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := cache.Scan(ctx, cache.Medium{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("a scan that was cancelled: %v", err)
	}
}

// TestFullMedia: names and files without number cost a bounded effort, and what lies at the top is found all the same.
func TestFullMedia(t *testing.T) {
	g := get(t)
	t.Run("names", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 10100 {
			write(t, dir, fmt.Sprintf("photos/%05d", i), nil)
		}
		write(t, dir, "photos/zz", g.diff.file)
		write(t, dir, "zz", g.full.file)
		inv := scan(t, dir)
		if !inv.HasLayer(g.full.ID()) {
			t.Error("a file in the root was not found behind a full folder")
		}
		if len(inv.Notes) != 1 || !strings.Contains(inv.Notes[0], "the rest was not looked at") {
			t.Errorf("notes %q", inv.Notes)
		}
	})
	t.Run("files of use", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 600 {
			write(t, dir, fmt.Sprintf("%03d/part", i), g.full.file[:layer.HeaderSize])
		}
		inv := scan(t, dir)
		if inv.Summary() != "512 parts of layers" || len(inv.Notes) != 1 {
			t.Errorf("found %s, notes %q", inv.Summary(), inv.Notes)
		}
	})
	t.Run("damaged files", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 200 {
			write(t, dir, fmt.Sprintf("%03d.vhd", i), []byte("conectix is all that there is"))
		}
		inv := scan(t, dir)
		if inv.Summary() != nothing || len(inv.Notes) != 51 || inv.Notes[50] != "… and more" {
			t.Errorf("found %s, %d notes", inv.Summary(), len(inv.Notes))
		}
	})
	t.Run("large block tables", func(t *testing.T) {
		dir := t.TempDir()
		for i := range 3 {
			f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.vhd", i)))
			if err != nil {
				t.Fatal(err)
			}
			o := vhd.CreateOptions{Size: 32 << 30, BlockSize: 4096, UUID: image.UUID{7, 15: byte(i + 1)}}
			if err := errors.Join(vhd.Create(f, o), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		inv := scan(t, dir)
		if inv.Summary() != "1 VHD file" || len(inv.Notes) != 2 || !strings.Contains(inv.Notes[0], "too much memory") {
			t.Errorf("found %s, notes %q", inv.Summary(), inv.Notes)
		}
	})
}
