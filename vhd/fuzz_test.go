package vhd_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"disksync/vhd"
)

// seedCorpus gives the small files of the corpus to a fuzz target.
func seedCorpus(f *testing.F) {
	f.Helper()
	names, err := filepath.Glob("testdata/corpus/*/*.gz")
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, name := range names {
		in, err := os.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		z, err := gzip.NewReader(in)
		if err != nil {
			f.Fatal(err)
		}
		// The start holds everything that is parsed first; a few megabytes would only slow the fuzzer down.
		b, err := io.ReadAll(io.LimitReader(z, 16<<10))
		if err != nil {
			f.Fatal(err)
		}
		in.Close()
		f.Add(b)
		n++
	}
	if n < 20 {
		f.Fatalf("%d seeds, want at least 20", n)
	}
}

// FuzzOpen: no input makes the parser panic, and what opens can be read or says why not.
func FuzzOpen(f *testing.F) {
	seedCorpus(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, opts := range [][]vhd.Option{nil, {vhd.Salvage()}} {
			m, err := vhd.Open(bytes.NewReader(b), int64(len(b)), opts...)
			if err != nil {
				var e *vhd.Error
				if !errors.As(err, &e) {
					t.Fatalf("error %v has no fault", err)
				}
				continue
			}
			c, err := vhd.NewChain(m)
			if err != nil {
				continue
			}
			buf := make([]byte, min(c.Size(), 16<<10))
			for _, off := range []int64{0, c.Size() / 2, c.Size() - int64(len(buf))} {
				if _, err := c.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
					t.Fatalf("read at %d: %v", off, err)
				}
			}
		}
	})
}

// seedDisks gives small whole disks, and ones with one fault each, to a fuzz target. The second argument has checksums computed
// again, or no change of the fuzzer's would get past them.
func seedDisks(f *testing.F) {
	f.Helper()
	dynamic, _ := goodDiskOf(f, 4096)
	child := create(f, vhd.CreateOptions{
		Size: 9 * 4096, BlockSize: 4096, UUID: newUUID(2), Parent: &vhd.Parent{UUID: newUUID(1), Path: "p.vhd"},
	})
	d := openDisk(f, child, openImage(f, inMemory(dynamic)))
	for _, off := range []int64{0, 4096 * 2, 4096*5 + 10} {
		if _, err := d.WriteAt(noise(300, uint64(off)), off); err != nil {
			f.Fatal(err)
		}
	}
	if err := d.Sync(); err != nil {
		f.Fatal(err)
	}
	f.Add(child.data, true)
	for _, c := range faultCases {
		f.Add(c.edit(bytes.Clone(dynamic)), false)
	}
	f.Add(tapdiskFile(f, claims(0xe0))[:8192], true)
	f.Add(corpusBytes(f, "gen-qemu/fixed-1sector"), true)
}

// mend computes the checksums of whatever looks like a footer or a header where one belongs.
func mend(b []byte, really bool) {
	if !really {
		return
	}
	for _, at := range []int{0, len(b) - 512, len(b) - 511} {
		if at >= 0 && len(b) >= at+511 && string(b[at:at+8]) == "conectix" {
			sum(b[at:min(at+512, len(b))], 64)
		}
	}
	if len(b) >= 1536 && string(b[512:520]) == "cxsparse" {
		sum(b[512:1536], 36)
	}
	if len(b) >= 3072 && string(b[2048:2056]) == "tdbatmap" {
		batmapSum(b[2048:2560], b[2560:3072])
	}
}

// FuzzCheck: no input makes Check panic, take much memory or disagree with Open.
func FuzzCheck(f *testing.F) {
	seedDisks(f)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		mend(b, fix)
		file := inMemory(b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rep := check(t, file, vhd.CheckOptions{Data: true, Now: 1 << 30})
		runtime.ReadMemStats(&after)
		// The table, a bitmap, a buffer, the findings.
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(4<<20+32*len(b)) {
			t.Errorf("%d bytes of memory for a file of %d", n, len(b))
		}
		if len(rep.Findings) > 1000 {
			t.Errorf("%d findings", len(rep.Findings))
		}
		agree(t, file, rep)
	})
}

// FuzzRepair: a repair that is refused writes nothing; one that is done leaves the content as it was and nothing more to do. What it
// made can be relinked.
func FuzzRepair(f *testing.F) {
	seedDisks(f)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		mend(b, fix)
		file := inMemory(b)
		o := vhd.RepairOptions{UUID: newUUID(9), Geometry: true}
		_, err := vhd.Repair(short{file}, file.size(), o)
		if errors.Is(err, errInjected) {
			return
		}
		if err != nil {
			if file.ops > 0 {
				t.Fatalf("refused (%v) and written to", err)
			}
			return
		}
		content := sample(t, inMemory(b))
		if !bytes.Equal(content, sample(t, file)) {
			t.Fatal("content changed")
		}
		if res := repair(t, file, o); len(res.Mended) > 0 {
			t.Fatalf("a second repair mends %v", res.Mended)
		}
		m := openImage(t, file)
		if m.Type() != vhd.Differencing {
			return
		}
		p := vhd.Parent{UUID: m.ParentUUID(), Path: "somewhere/else.vhd"}
		if _, err := vhd.Relink(short{file}, file.size(), p, vhd.RelinkOptions{}); err != nil {
			return
		}
		if !bytes.Equal(content, sample(t, file)) {
			t.Fatal("content changed by a new parent's name")
		}
		if got := openImage(t, file).ParentPaths(); got[0] != "./somewhere/else.vhd" {
			t.Fatalf("paths %q", got)
		}
	})
}

// short is a file that refuses to grow far: some files say that they keep terabytes free.
type short struct{ *memFile }

func (s short) WriteAt(p []byte, off int64) (int, error) {
	if off > 16<<20 {
		return 0, errInjected
	}
	return s.memFile.WriteAt(p, off)
}

// sample returns some of a disk's content, on a parent full of sevens when it has one.
func sample(t *testing.T, f *memFile) []byte {
	t.Helper()
	m := openImage(t, f)
	members := []*vhd.Image{m}
	if m.Type() == vhd.Differencing {
		members = append(members, vhd.Content(m.ParentUUID(), sevens{}, m.Size()))
	}
	c, err := vhd.NewChain(members...)
	if err != nil {
		return nil
	}
	buf := make([]byte, 3*min(c.Size(), 64<<10))
	n := len(buf) / 3
	for i, off := range []int64{0, c.Size() / 2, c.Size() - int64(n)} {
		if _, err := c.ReadAt(buf[i*n:(i+1)*n], off); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	return buf
}

type sevens struct{}

func (sevens) ReadAt(p []byte, _ int64) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}
