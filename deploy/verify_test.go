package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/testkit"
	"disksync/layer"
	"disksync/vhd"
)

// medium makes a medium with files and returns what is on it.
func medium(t testing.TB, kind cache.Kind, contents ...[]byte) *cache.Inventory {
	t.Helper()
	dir := t.TempDir()
	for i, b := range contents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inv, err := cache.Scan(t.Context(), cache.Medium{Kind: kind, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inv.Close)
	return inv
}

func (h *house) verify(name string) *deploy.VerifyResult {
	h.Helper()
	res, err := h.s.Verify(h.Context(), name, deploy.NewTally(), h.l.public())
	if err != nil {
		h.Fatal(err)
	}
	return res
}

// flip changes one bit of a file in the store.
func flip(t testing.TB, fsys durable.FS, name string, at int64, bit int) {
	t.Helper()
	f, err := fsys.OpenWrite(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// places returns where in the golden VHD file of version n something is: its metadata, and the content of each block.
func places(t testing.TB, h *house, n int) (size int64, metadata [][2]int64, content map[int][2]int64) {
	t.Helper()
	v := h.l.version(n)
	f, err := h.fsys.Open(deploy.Path(image.VHDUUID(v.state.ID())))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, err = f.Size(); err != nil {
		t.Fatal(err)
	}
	m, err := vhd.Open(f, size)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]byte, size)
	if _, err := f.ReadAt(whole, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	content = map[int][2]int64{}
	first := size
	for i, seed := range v.state.Blocks {
		if !m.Allocated(i) || seed.IsZero() {
			continue
		}
		start := i * block
		b := v.disk[start:min(start+block, len(v.disk))]
		lo := slices.IndexFunc(b, func(c byte) bool { return c != 0 })
		at := bytes.Index(whole, b[lo:lo+64])
		if at < 0 {
			t.Fatalf("block %d is not in the file", i)
		}
		content[i] = [2]int64{int64(at), 6000}
		first = min(first, int64(at-lo))
	}
	return size, [][2]int64{{0, first}, {size - vhd.FooterSize, vhd.FooterSize}}, content
}

// TestVerifyFindsFlippedBits: a flipped bit in a golden disk either changes nothing that a VM can read, or is found, and named with
// its disk and block.
func TestVerifyFindsFlippedBits(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 0, 4)
	h.version(false, 1, 3, 5)
	vm := h.bring("vm", 2)
	want := h.l.version(2).disk
	if res := h.verify("vm"); len(res.Bad) != 0 || res.Blocks == 0 || res.Damaged() != nil || res.Version != 2 || len(res.Changed) != 0 {
		t.Fatalf("before: %+v", res)
	}
	r := rand.New(rand.NewPCG(1, 2))
	each := 60
	if raceEnabled {
		each = 12
	}
	found, harmless := 0, 0
	for n := 1; n <= 2; n++ {
		v := h.l.version(n)
		name := deploy.Path(image.VHDUUID(v.state.ID()))
		_, metadata, content := places(t, h, n)
		try := func(at int64, block int, must bool) {
			bit := r.IntN(8)
			flip(t, h.fsys, name, at, bit)
			res := h.verify("vm")
			err := sameContent(h.fsys, leafOf(&vm.Current), want)
			switch {
			case len(res.Bad) == 0 && err != nil:
				t.Errorf("version %d, bit %d of byte %d: not found, but the disk is another: %v", n, bit, at, err)
			case len(res.Bad) == 0 && must:
				t.Errorf("version %d, bit %d of byte %d: not found", n, bit, at)
			case len(res.Bad) == 0:
				harmless++
			default:
				found++
			}
			if must {
				bad := []deploy.BadBlock{{Role: image.System, State: v.state.ID(), Block: block}}
				for i := range res.Bad {
					res.Bad[i].Why = ""
				}
				if diff := cmp.Diff(bad, res.Bad); diff != "" {
					t.Errorf("version %d, bit %d of byte %d: %s", n, bit, at, diff)
				}
				if code(t, res.Damaged()) != "DS-DISK-DAMAGED" {
					t.Error(res.Damaged())
				}
			}
			flip(t, h.fsys, name, at, bit)
		}
		for _, m := range metadata {
			for range each {
				try(m[0]+r.Int64N(m[1]), -1, false)
			}
		}
		for b, c := range content {
			for range each / 6 {
				try(c[0]+r.Int64N(100), b, true)
			}
		}
	}
	if found < each || harmless > 2*found {
		t.Errorf("%d flips were found, %d are harmless", found, harmless)
	}
	if res := h.verify("vm"); len(res.Bad) != 0 {
		t.Errorf("afterwards: %+v", res)
	}
}

// TestVerifyRefuses: a disk is judged by what was signed, not by what lies beside it.
func TestVerifyRefuses(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(false, 1, 3)
	h.bring("vm", 2)
	if _, err := h.s.Verify(t.Context(), "nobody", deploy.NewTally(), h.l.public()); !errors.Is(err, deploy.ErrNoVM) {
		t.Error(err)
	}
	if _, err := h.s.Verify(t.Context(), "vm", deploy.NewTally(), newLine("another key").public()); code(t, err) != "DS-MANIFEST" {
		t.Error(err)
	}
	for n := 1; n <= 2; n++ {
		v := h.l.version(n)
		name := "disks/" + image.VHDUUID(v.state.ID()).String()
		for _, suffix := range []string{".state", ".vhd"} {
			good, err := durable.ReadFile(h.fsys, name+suffix, 16<<20)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.fsys.Remove(name + suffix); err != nil {
				t.Fatal(err)
			}
			res := h.verify("vm")
			if len(res.Bad) != 1 || res.Bad[0].State != v.state.ID() || res.Bad[0].Block != -1 {
				t.Errorf("without the %s of version %d: %+v", suffix, n, res.Bad)
			}
			if err := durable.WriteFile(h.fsys, name+suffix, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if res := h.verify("vm"); len(res.Bad) != 0 {
		t.Errorf("afterwards: %+v", res)
	}
	names := files(t, h.fsys, "manifests")
	if len(names) != 1 {
		t.Fatalf("manifests: %v", names)
	}
	flip(t, h.fsys, "manifests/"+names[0], 200, 0)
	if _, err := h.s.Verify(t.Context(), "vm", deploy.NewTally(), h.l.public()); code(t, err) != "DS-MANIFEST" {
		t.Error(err)
	}
}

// TestRepair: damaged golden disks are made good again, with exactly the damaged blocks from the medium and the rest from this
// machine, and nothing that the user has written is touched.
func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name string
		// damage does it and returns the blocks of versions 1 and 2 that must be got.
		damage func(h *house, name func(n int) string) (v1, v2 []int)
	}{
		{"one block of the base", func(h *house, name func(int) string) (v1, v2 []int) {
			_, _, content := places(h, h, 1)
			flip(h, h.fsys, name(1), content[3][0]+7, 3)
			return []int{3}, nil
		}},
		{"one block of the difference", func(h *house, name func(int) string) (v1, v2 []int) {
			_, _, content := places(h, h, 2)
			flip(h, h.fsys, name(2), content[1][0]+7, 3)
			return nil, []int{1}
		}},
		{"blocks of both", func(h *house, name func(int) string) (v1, v2 []int) {
			_, _, content := places(h, h, 1)
			flip(h, h.fsys, name(1), content[0][0]+7, 3)
			flip(h, h.fsys, name(1), content[3][0]+9, 0)
			_, _, content = places(h, h, 2)
			flip(h, h.fsys, name(2), content[1][0]+7, 3)
			return []int{0, 3}, []int{1}
		}},
		{"a file is gone", func(h *house, name func(int) string) (v1, v2 []int) {
			if err := h.fsys.Remove(name(2)); err != nil {
				h.Fatal(err)
			}
			return nil, []int{1, 4}
		}},
		{"a file is cut", func(h *house, name func(int) string) (v1, v2 []int) {
			b, err := durable.ReadFile(h.fsys, name(2), 16<<20)
			if err == nil {
				err = durable.WriteFile(h.fsys, name(2), b[:1000], 0o600)
			}
			if err != nil {
				h.Fatal(err)
			}
			return nil, []int{1, 4}
		}},
		{"a digest list is gone", func(h *house, name func(int) string) (v1, v2 []int) {
			if err := h.fsys.Remove("disks/" + image.VHDUUID(h.l.version(2).state.ID()).String() + ".state"); err != nil {
				h.Fatal(err)
			}
			return nil, nil
		}},
		{"nothing", func(*house, func(int) string) (v1, v2 []int) { return nil, nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.version(true, 1, 2, 0, 4)
			h.version(false, 1, 3, 0, 4, 5)
			vm := h.bring("vm", 1)
			h.scribble(leafOf(&vm.Current), "under version 1")
			vm = h.bring("vm", 2)
			user := map[image.UUID][]byte{
				leafOf(vm.Previous): nil,
				leafOf(&vm.Current): h.scribble(leafOf(&vm.Current), "under version 2"),
			}
			raw := map[image.UUID][]byte{}
			for id := range user {
				b, err := durable.ReadFile(h.fsys, deploy.Path(id), 16<<20)
				if err != nil {
					t.Fatal(err)
				}
				raw[id] = b
			}
			get1, get2 := c.damage(h, func(n int) string { return deploy.Path(image.VHDUUID(h.l.version(n).state.ID())) })
			res := h.verify("vm")
			damaged := map[image.StateID]bool{}
			for _, b := range res.Bad {
				damaged[b.State] = true
			}
			if (len(damaged) == 0) != (c.name == "nothing") {
				t.Fatalf("found %+v", res.Bad)
			}
			var bytesWanted int64
			for n, list := range map[int][]int{1: get1, 2: get2} {
				x := h.l.version(n).layers[n-1].Index
				for _, b := range list {
					f, ok := x.Find(b)
					if !ok {
						t.Fatalf("layer %d has no block %d", n, b)
					}
					bytesWanted += int64(f.Length)
				}
			}
			layers := h.l.version(2).layers
			tally := deploy.NewTally()
			j := &deploy.Job{Store: h.s, Manifest: h.l.version(2).signed, Media: []*cache.Inventory{medium(t, cache.USB, layers[0].file, layers[1].file)}, Tally: tally}
			out, err := j.Repair(t.Context(), damaged)
			if err != nil {
				t.Fatal(err)
			}
			if out.Bytes[deploy.USB] != bytesWanted || out.Layers != len(damaged) {
				t.Errorf("%d bytes from the medium, want %d; %d layers, want %d", out.Bytes[deploy.USB], bytesWanted, out.Layers, len(damaged))
			}
			if res := h.verify("vm"); len(res.Bad) != 0 || !slices.Equal(res.Changed, []image.Role{image.System}) {
				t.Errorf("afterwards: %+v", res)
			}
			for n := 1; n <= 2; n++ {
				h.holds(image.VHDUUID(h.l.version(n).state.ID()), h.l.version(n).disk)
			}
			for id, was := range raw {
				if now, err := durable.ReadFile(h.fsys, deploy.Path(id), 16<<20); err != nil || !bytes.Equal(now, was) {
					t.Errorf("the user's file was touched: %v", err)
				}
			}
			h.holds(leafOf(&vm.Current), user[leafOf(&vm.Current)])
		})
	}
}

// TestRepairInVain: without a good copy a repair says so, the damaged disk stays as it is, and a later one with a good copy goes on.
func TestRepairInVain(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3)
	vm := h.bring("vm", 1)
	v := h.l.version(1)
	name := deploy.Path(vm.Current.Disks[0].Base)
	_, _, content := places(t, h, 1)
	flip(t, h.fsys, name, content[1][0], 1)
	was, err := durable.ReadFile(h.fsys, name, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := v.layers[0].Find(1)
	rotten := bytes.Clone(v.layers[0].file)
	rotten[f.Offset+500] ^= 1
	damaged := map[image.StateID]bool{v.state.ID(): true}
	j := &deploy.Job{Store: h.s, Manifest: v.signed, Media: []*cache.Inventory{medium(t, cache.USB, rotten)}, Tally: deploy.NewTally()}
	if _, err := j.Repair(t.Context(), damaged); err == nil || !errors.Is(err, layer.ErrCorrupt) || code(t, err) == "" {
		t.Errorf("repaired from a rotten medium: %v", err)
	}
	if now, err := durable.ReadFile(h.fsys, name, 16<<20); err != nil || !bytes.Equal(now, was) {
		t.Errorf("the damaged disk is another: %v", err)
	}
	if _, err := j.Repair(t.Context(), map[image.StateID]bool{{1}: true}); code(t, err) != "DS-CANNOT-REPAIR" {
		t.Error(err)
	}
	j.Media, j.Tally = []*cache.Inventory{medium(t, cache.USB, v.layers[0].file)}, deploy.NewTally()
	out, err := j.Repair(t.Context(), damaged)
	if err != nil {
		t.Fatal(err)
	}
	if out.Resumed == 0 || out.Bytes[deploy.USB] != block {
		t.Errorf("the second repair began anew: %+v", out)
	}
	h.holds(leafOf(&vm.Current), v.disk)
}

// sparse is where an export goes; a byte that nobody wrote is zero.
type sparse struct {
	b       []byte
	written chan int64
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	s.written <- int64(len(p))
	return copy(s.b[off:], p), nil
}

func (h *house) export(name string, size int) (b []byte, written int64, err error) {
	h.Helper()
	out := &sparse{b: make([]byte, size), written: make(chan int64, 1000)}
	n, err := h.s.Export(h.Context(), name, image.System, out, deploy.NewTally())
	close(out.written)
	for k := range out.written {
		written += k
	}
	if err == nil && n != int64(size) {
		h.Errorf("an export of %d bytes, want %d", n, size)
	}
	return out.b, written, err
}

// TestExport: an export is the disk as the VM sees it, with what its user wrote, and a damaged block is never exported.
func TestExport(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 0, 4)
	h.version(false, 1, 3, 0, 0, 5)
	vm := h.bring("vm", 2)
	want := h.l.version(2).disk
	got, written, err := h.export("vm", len(want))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the untouched disk: %v", err)
	}
	if most := int64(h.l.version(2).state.DataBlocks()) * block; written == 0 || written > most {
		t.Errorf("%d bytes were written, there are %d", written, most)
	}
	want = h.scribble(leafOf(&vm.Current), "the user's")
	if bytes.Equal(want, h.l.version(2).disk) {
		t.Fatal("the disk did not change")
	}
	if got, _, err = h.export("vm", len(want)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk with its user's changes: %v", err)
	}
	_, _, content := places(t, h, 1)
	flip(t, h.fsys, deploy.Path(image.VHDUUID(h.l.version(1).state.ID())), content[0][0]+50, 5)
	if _, _, err := h.export("vm", len(want)); code(t, err) != "DS-DISK-DAMAGED" {
		t.Errorf("a damaged disk: %v", err)
	}
	if _, err := h.s.Export(t.Context(), "vm", image.User, &sparse{}, deploy.NewTally()); code(t, err) != "DS-NO-DISK" {
		t.Error(err)
	}
	if _, err := h.s.Export(t.Context(), "nobody", image.System, &sparse{}, deploy.NewTally()); !errors.Is(err, deploy.ErrNoVM) {
		t.Error(err)
	}
}

// TestQemuReadsInstalled: an independent program reads the golden disk of a full image, in a real folder, as it was published and as
// it is exported.
func TestQemuReadsInstalled(t *testing.T) {
	qemu := testkit.Tool(t, "qemu-img")
	dir := t.TempDir()
	fsys, err := durable.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, fsys)
	l := newLine("qemu").add(t, true, disk(5, 1, 2, 0, 4))
	v := l.version(1)
	if err := bring(t.Context(), s, v, newSource(deploy.USB, v.layers...)); err != nil {
		t.Fatal(err)
	}
	vm, err := s.VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "raw")
	cmd := exec.CommandContext(t.Context(), qemu, "convert", "-f", "vpc", "-O", "raw", filepath.Join(dir, deploy.Path(vm.Current.Disks[0].Base)), raw)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	got, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, v.disk) {
		t.Errorf("qemu-img reads %d bytes, and others than the %d that were published", len(got), len(v.disk))
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "export"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := s.Export(t.Context(), "vm", image.System, file, deploy.NewTally()); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(int64(len(v.disk))); err != nil {
		t.Fatal(err)
	}
	if exported, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(exported, got) {
		t.Errorf("the export is another disk than the one that qemu-img reads: %v", err)
	}
}
