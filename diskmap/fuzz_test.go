package diskmap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"disksync/diskmap"
	"disksync/internal/testkit"
)

// seeds returns the small disks of testdata, by their names. testdata/make.sh makes them.
func seeds(t testing.TB) (names []string, disks [][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.raw.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		names, disks = append(names, strings.TrimSuffix(filepath.Base(name), ".raw.gz")), append(disks, testkit.Gunzip(t, name))
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

// travels fails the test unless a map of a disk is the same after it went to another process.
func travels(t testing.TB, b []byte, m *diskmap.Map) {
	t.Helper()
	encoded := bytes.Join(m.Encode(), nil)
	there, err := diskmap.Parse(encoded, int64(len(b)))
	if err != nil || len(encoded) > diskmap.MaxEncoded(int64(len(b))) {
		t.Fatalf("%d bytes: %v", len(encoded), err)
	}
	if !slices.Equal(there.Volumes(), m.Volumes()) {
		t.Fatalf("%+v became %+v", m.Volumes(), there.Volumes())
	}
	want, got := bytes.Clone(b), bytes.Clone(b)
	m.Clear(want, 0)
	there.Clear(got, 0)
	if !bytes.Equal(want, got) {
		t.Fatal("something else is free")
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
		travels(t, b, m)
	})
}

// FuzzParse: nobody who says what is free of a disk makes its reader panic, or believe what cannot be.
func FuzzParse(f *testing.F) {
	_, disks := seeds(f)
	for _, b := range disks {
		f.Add(bytes.Join(scan(f, inMemory(b)).Encode(), nil), int64(len(b)))
	}
	f.Fuzz(func(t *testing.T, encoded []byte, size int64) {
		const most = 64 << 20 // of the disk: more takes time only
		m, err := diskmap.Parse(encoded, size)
		if err == nil && size <= most {
			sane(t, make([]byte, max(size, 0)), m)
		}
		if err != nil && !errors.Is(err, diskmap.ErrMap) {
			t.Fatal(err)
		}
	})
}

// TestLies: what says of itself that it is a map of a disk and cannot be is refused.
func TestLies(t *testing.T) {
	const size = 1 << 20
	be := binary.BigEndian
	volume := func(kept string, n ...int64) []byte {
		var b []byte
		for _, s := range []string{"partition 1", "ext4", kept} {
			b = append(be.AppendUint32(b, uint32(len(s))), s...)
		}
		for _, v := range n {
			b = be.AppendUint64(b, uint64(v))
		}
		return b
	}
	encoded := func(bits int, volumes ...[]byte) []byte {
		b := append(be.AppendUint32(nil, uint32(len(volumes))), bytes.Join(volumes, nil)...)
		return append(b, bytes.Repeat([]byte{0xff}, bits)...)
	}
	good := encoded(16, volume("", 0, 1<<19, 0, 4096, 3), volume("odd", 1<<19, 4096, 0, 0, 0), volume("", 600<<10, 424<<10, 601<<10, 1024, 5))
	m, err := diskmap.Parse(good, size)
	if err != nil || m.Free() != 3*4096+5*1024 {
		t.Fatalf("%+v, %v", m, err)
	}
	for name, b := range map[string][]byte{
		"nothing":             nil,
		"cut off":             good[:len(good)-1],
		"more":                append(bytes.Clone(good), 0),
		"too many":            encoded(0, make([][]byte, 1025)...),
		"endless text":        be.AppendUint32([]byte{0, 0, 0, 1}, 1<<31),
		"beyond the disk":     encoded(0, volume("", 4096, size, 0, 0, 0)),
		"before the disk":     encoded(0, volume("", -4096, 8192, 0, 0, 0)),
		"negative size":       encoded(0, volume("", 4096, -1, 0, 0, 0)),
		"overflow":            encoded(0, volume("", 4096, 1<<63-1, 0, 0, 0)),
		"not in order":        encoded(0, volume("", 1<<19, 4096, 0, 0, 0), volume("", 0, 4096, 0, 0, 0)),
		"overlap":             encoded(0, volume("", 0, 8192, 0, 0, 0), volume("", 4096, 4096, 0, 0, 0)),
		"kept, and free":      encoded(8, volume("odd", 0, 1<<19, 0, 4096, 1)),
		"free beyond":         encoded(8, volume("", 0, 1<<19, 0, 4096, 129)),
		"free before":         encoded(8, volume("", 8192, 8192, 4096, 4096, 1)),
		"free behind":         encoded(8, volume("", 0, 8192, 16384, 4096, 1)),
		"units overflow":      encoded(8, volume("", 0, 1<<19, 0, 1<<62, 4)),
		"units too small":     encoded(8, volume("", 0, 1<<19, 0, 1, 64)),
		"units negative":      encoded(8, volume("", 0, 1<<19, 0, -4096, 1)),
		"number negative":     encoded(8, volume("", 0, 1<<19, 0, 4096, -64)),
		"fewer than it says":  encoded(0, volume("", 0, 1<<19, 0, 4096, 1)),
		"as many as there is": encoded(0, volume("", 0, 1<<62, 0, 512, 1<<53)),
	} {
		if m, err := diskmap.Parse(b, size); !errors.Is(err, diskmap.ErrMap) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
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
		travels(t, b, m)
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
		m := scan(t, inMemory(b))
		sane(t, b, m)
		travels(t, b, m)
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
