package diskmap_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"disksync/diskmap"
)

// seeds returns the small disks of testdata, by their names. testdata/make.sh makes them.
func seeds(t testing.TB) (names []string, disks [][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.raw.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		names, disks = append(names, strings.TrimSuffix(filepath.Base(name), ".raw.gz")), append(disks, b)
	}
	if len(disks) < 12 {
		t.Fatalf("%d seeds, want 12", len(disks))
	}
	return names, disks
}

// sane fails the test when a map of a disk contradicts itself, or the view of the disk the map.
func sane(t testing.TB, b []byte, m *diskmap.Map) {
	t.Helper()
	end := int64(0)
	for _, v := range m.Volumes() {
		if v.Offset < end || v.Size < 0 || v.Offset+v.Size > int64(len(b)) || v.Free < 0 || v.Free > v.Size || v.Kept != "" && v.Free != 0 {
			t.Fatalf("volumes %+v on a disk of %d bytes", m.Volumes(), len(b))
		}
		end = v.Offset + v.Size
	}
	got := make([]byte, len(b))
	view := m.Disk(inMemory(b))
	if n, err := view.ReadAt(got, 0); n != len(b) || err != nil && len(b) > 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if at := onlyZeros(b, got); at >= 0 {
		t.Fatalf("byte %d became %d", at, got[at])
	}
	if n := changed(b, got); n > m.Free() {
		t.Fatalf("%d bytes became zeros, and %d are free", n, m.Free())
	}
}

// patched returns a disk with some bytes changed: each patch is a place, a number of bytes to be changed, and the value.
func patched(base, patches []byte) []byte {
	b := bytes.Clone(base)
	for ; len(patches) >= 6 && len(b) > 0; patches = patches[6:] {
		at := int(binary.LittleEndian.Uint32(patches)) % len(b)
		for i := range int(patches[4]%8) + 1 {
			if at+i < len(b) {
				b[at+i] = patches[5]
			}
		}
	}
	// What has one checksum over all of it would be refused at once.
	if bytes.HasPrefix(b[min(3, len(b)):], []byte("EXFAT   ")) && len(b) > 6144 {
		var sum uint32
		for i, c := range b[:5632] {
			if i != 106 && i != 107 && i != 112 {
				sum = sum<<31 | sum>>1 + uint32(c)
			}
		}
		for at := 5632; at < 6144; at += 4 {
			binary.LittleEndian.PutUint32(b[at:], sum)
		}
	}
	if len(b) > 1<<20 && string(b[512:520]) == "EFI PART" {
		gptSums(b)
	}
	return b
}

// FuzzScan: no disk makes the scan panic, fail or loop, and what it says holds together.
func FuzzScan(f *testing.F) {
	_, disks := seeds(f)
	for i := range disks {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte{0x3a, 4, 0, 0, 0, 2, 13, 0, 0, 0, 0, 4})
	}
	f.Fuzz(func(t *testing.T, base byte, patches []byte) {
		b := patches // a disk from scratch
		if int(base) < len(disks) {
			b = patched(disks[base], patches)
		}
		m, err := diskmap.Scan(inMemory(b))
		if err != nil {
			t.Fatal(err)
		}
		sane(t, b, m)
	})
}

// TestSeeds: the disks that fuzzing begins with are good, each in its way.
func TestSeeds(t *testing.T) {
	names, disks := seeds(t)
	for i, b := range disks {
		m := scan(t, inMemory(b))
		if got := kinds(m); strings.Contains(got, "kept") || m.Free() == 0 {
			t.Errorf("%s: %s: %+v", names[i], got, m.Volumes())
		}
		sane(t, b, m)
	}
}

// TestHostile: a disk that is damaged where file systems keep what they say about themselves does no harm.
func TestHostile(t *testing.T) {
	_, disks := seeds(t)
	r := rand.New(rand.NewPCG(1, 2))
	rounds := 300
	if os.Getenv("DISKSYNC_SOAK") != "" {
		rounds = 20_000
	}
	for range rounds {
		base := disks[r.IntN(len(disks))]
		var patches []byte
		for range 1 + r.IntN(4) {
			at := r.IntN(len(base)) >> r.IntN(14)
			if r.IntN(4) == 0 {
				at = r.IntN(2048)
			}
			patches = binary.LittleEndian.AppendUint32(patches, uint32(at))
			patches = append(patches, byte(r.IntN(8)), byte(r.IntN(256)))
		}
		b := patched(base, patches)
		sane(t, b, scan(t, inMemory(b)))
	}
}

// giant is a disk that says that it is very large, and is zeros behind its start.
type giant struct {
	start []byte
	size  int64
}

func (g giant) Size() int64 { return g.size }

func (g giant) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	if off < int64(len(g.start)) {
		copy(b, g.start[off:])
	}
	return len(b), nil
}

// TestMemory: what a disk says of its size does not cost memory beyond the limit.
func TestMemory(t *testing.T) {
	const size = 2040 << 30
	names, disks := seeds(t)
	le := binary.LittleEndian
	grow := map[string]func(b []byte){
		"ext2": func(b []byte) {
			le.PutUint32(b[1024+4:], size>>10)
			le.PutUint32(b[1024:], le.Uint32(b[1024:])*((size>>10)/8192))
			le.PutUint32(b[1024+32:], 8192)
		},
		"fat32": func(b []byte) { le.PutUint32(b[32:], size>>9); le.PutUint32(b[36:], 1<<22); b[13] = 16 },
		"ntfs":  func(b []byte) { le.PutUint64(b[40:], size>>9-1) },
		"exfat": func(b []byte) {
			le.PutUint64(b[72:], size>>9)
			le.PutUint32(b[84:], 1<<24)
			le.PutUint32(b[88:], 1<<25)
			le.PutUint32(b[92:], 1<<28)
		},
	}
	for i, name := range names {
		edit := grow[name]
		if edit == nil {
			continue
		}
		b := bytes.Clone(disks[i])
		edit(b)
		b = patched(b, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m := scan(t, giant{b, size})
		runtime.ReadMemStats(&after)
		v := one(t, m)
		t.Logf("%s: %d MiB: %+v", name, (after.TotalAlloc-before.TotalAlloc)>>20, v)
		if took := int64(after.TotalAlloc - before.TotalAlloc); v.Kept == "" || v.Kind == diskmap.Unknown || took > 2*diskmap.MaxMapBytes {
			t.Errorf("%s: %d bytes of memory: %+v", name, took, v)
		}
	}
}
