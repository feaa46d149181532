package disk_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"disksync/disk"
	"disksync/disk/nbd"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

const mib = 1 << 20

// noise returns n bytes that depend on seed and are never zero.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return bytes.ReplaceAll(b, []byte{0}, []byte{1})
}

// newChain makes depth disks of size bytes, each the child of the one before, with some content in each; it returns the name of the
// leaf, which is empty, and the content.
func newChain(t testing.TB, dir string, size int64, depth int) (string, []byte) {
	t.Helper()
	content := make([]byte, size)
	name := ""
	for i := range depth {
		o := vhd.CreateOptions{Size: size, UUID: image.RandomUUID([16]byte{15: byte(i + 1)})}
		below := name
		name = filepath.Join(dir, string(rune('a'+i%26))+strings.Repeat("x", i/26)+".vhd")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			err = vhdfile.Create(f, o)
		} else {
			var parent *vhdfile.File
			if parent, err = vhdfile.OpenFile(below); err == nil {
				err = errors.Join(vhd.Snapshot(f, parent.Image, filepath.Base(below), o), parent.Close())
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if i+1 == depth {
			break
		}
		d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for j := range int64(3) {
			off := (int64(i)*5 + j*7) * 300 * 1024 % (size - mib) / 512 * 512
			p := noise(mib/2, byte(i*3+int(j)))
			copy(content[off:], p)
			if _, err := d.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return name, content
}

// served is a disk behind a socket.
type served struct {
	*disk.Live
	uri    string
	report reports
}

type reports struct {
	mu   sync.Mutex
	list []string
}

func (r *reports) add(export, op string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, export+": "+op+": "+err.Error())
}

// serve serves a disk until the test ends; then nothing must have been reported.
func serve(t testing.TB, name string, o nbd.Options) *served {
	t.Helper()
	d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &served{Live: disk.NewLive(d.Disk)}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s.uri = "nbd+unix:///disk?socket=" + socket
	o.Report = s.report.add
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nbd.Serve(ctx, l, map[string]nbd.Device{"disk": s.Live}, o) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, d.Close()); err != nil {
			t.Error(err)
		}
		for _, r := range s.report.list {
			t.Errorf("reported: %s", r)
		}
	})
	return s
}

// tool runs a program and returns what it prints.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, name), args...)
	// nbdsh is a script for the system's own Python, whatever others there are.
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

func readAll(t testing.TB, r io.ReaderAt, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

// TestQemuWrites lets qemu-io write, discard and zero, and compares with a plain array.
func TestQemuWrites(t *testing.T) {
	t.Parallel()
	name, content := newChain(t, t.TempDir(), 16*mib, 3)
	s := serve(t, name, nbd.Options{})
	tool(t, "qemu-io", "-f", "raw", s.uri,
		"-c", "write -P 0x5a 1M 3M", "-c", "write -P 7 4097 511", "-c", "write -f -P 9 9M 64k", "-c", "discard 2M 512k",
		"-c", "write -z 512k 1M", "-c", "write -z -u 12M 100k", "-c", "read -P 0x5a 1536k 512k", "-c", "flush")
	fill := func(off, n int, v byte) {
		for i := range n {
			content[off+i] = v
		}
	}
	fill(mib, 3*mib, 0x5a)
	fill(4097, 511, 7)
	fill(9*mib, 64<<10, 9)
	fill(2*mib, mib/2, 0)
	fill(mib/2, mib, 0)
	fill(12*mib, 100<<10, 0)
	if !bytes.Equal(readAll(t, s, 16*mib), content) {
		t.Error("content differs")
	}
	raw := filepath.Join(t.TempDir(), "raw")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", s.uri, raw)
	got, err := os.ReadFile(raw)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("qemu-img reads something else: %v", err)
	}
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", s.uri, raw)
}

// TestCopies lets nbdcopy copy in both directions, over several connections.
func TestCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name, content := newChain(t, dir, 40*mib, 4)
	s := serve(t, name, nbd.Options{})
	raw := filepath.Join(dir, "raw")
	tool(t, "nbdcopy", s.uri, raw)
	got, err := os.ReadFile(raw)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("nbdcopy reads something else: %v", err)
	}
	p := noise(40*mib, 99)
	clear(p[5*mib : 20*mib])
	if err := os.WriteFile(raw, p, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--flush", raw, s.uri)
	if !bytes.Equal(readAll(t, s, 40*mib), p) {
		t.Error("nbdcopy wrote something else")
	}
}

// TestNbdsh has libnbd ask for what other clients leave to chance.
func TestNbdsh(t *testing.T) {
	t.Parallel()
	name, content := newChain(t, t.TempDir(), 16*mib, 3)
	s := serve(t, name, nbd.Options{})
	script := `
h2 = nbd.NBD()
h2.add_meta_context("base:allocation")
h2.connect_uri(uri)
assert h.can_multi_conn() and h.can_df() and h.can_fast_zero() and h.can_cache() and h.can_fua() and h.can_trim() and not h.is_read_only()
assert h.get_structured_replies_negotiated()
assert (h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED), h.get_block_size(nbd.SIZE_MAXIMUM)) == (1, 4096, 32 << 20)
size = h.get_size()

# What one connection has written another one reads and makes durable.
h.pwrite(b"x" * 4096, 4096)
h2.flush()
assert h2.pread(4096, 4096) == b"x" * 4096
h.pwrite(b"y" * 513, 9000, nbd.CMD_FLAG_FUA)
assert h2.pread(515, 8999)[1:514] == b"y" * 513

# Chunks of a read cover it once, and are as they should be.
want = b"".join(h.pread(32768, o) for o in range(0, 8 << 20, 32768))
got = bytearray(8 << 20)
seen, kinds = [], set()
def chunk(buf, off, status, err):
    seen.append((off, len(buf))); kinds.add(status)
    got[off:off + len(buf)] = buf
h.pread_structured(8 << 20, 0, chunk)
assert bytes(got) == want and sum(n for _, n in seen) == 8 << 20 and kinds == {nbd.READ_DATA, nbd.READ_HOLE}, (seen, kinds)
seen, kinds = [], set()
h.pread_structured(8 << 20, 0, chunk, nbd.CMD_FLAG_DF)
assert bytes(got) == want and seen == [(0, 8 << 20)] and kinds == {nbd.READ_DATA}, (seen, kinds)

# One extent is one, and no longer than what was asked for; what is called zeros is.
def status(off, n, flags=0):
    out = []
    h2.block_status(n, off, lambda ctx, o, e, err: out.extend(zip(e[0::2], e[1::2])), flags)
    return out
assert status(4096, 512, nbd.CMD_FLAG_REQ_ONE) == [(512, 0)]
off, zeros = 0, 0
while off < size:
    for n, state in status(off, size - off):
        assert state in (0, 3)
        if state == 3:
            zeros += n
            assert h.pread(min(n, 1 << 20), off) == bytes(min(n, 1 << 20))
        off += n
assert off == size and zeros > 0

# Zeros with room, zeros that would be slow, zeros as fast as they can be.
hole = next(o for o in range(size - (1 << 20), 0, -65536) if status(o, 65536, nbd.CMD_FLAG_REQ_ONE) == [(65536, 3)])
h.zero(65536, hole, nbd.CMD_FLAG_FAST_ZERO)
assert status(hole, 65536) == [(65536, 3)]
h.zero(65536, hole, nbd.CMD_FLAG_NO_HOLE)
assert status(hole, 65536) == [(65536, 0)] and h.pread(65536, hole) == bytes(65536)
try:
    h.zero(65536, hole, nbd.CMD_FLAG_FAST_ZERO)
    assert False
except nbd.Error as e:
    assert e.errno == "ENOTSUP" or e.errno == "EOPNOTSUPP", e.errno
h.cache(size, 0)
h.trim(1 << 20, 1 << 20, nbd.CMD_FLAG_FUA)
for what, number in ((lambda: h.pread(1, size), "EINVAL"), (lambda: h.pwrite(b"x", size), "ENOSPC")):
    h.set_strict_mode(0)
    try:
        what()
        assert False
    except nbd.Error as e:
        assert e.errno == number, e.errno
h.shutdown(); h2.shutdown()
`
	tool(t, "nbdsh", "-c", "uri = '"+s.uri+"'", "-c", "h.connect_uri(uri)", "-c", script)
	copy(content[4096:], bytes.Repeat([]byte("x"), 4096))
	copy(content[9000:], bytes.Repeat([]byte("y"), 513))
	clear(content[mib : 2*mib])
	if !bytes.Equal(readAll(t, s, 16*mib), content) {
		t.Error("content differs")
	}
}

// TestMaps: qemu-img and nbdinfo see the same holes as the chain has.
func TestMaps(t *testing.T) {
	t.Parallel()
	name, _ := newChain(t, t.TempDir(), 32*mib, 5)
	s := serve(t, name, nbd.Options{})
	var want []byte // by sector: whether it is stored
	for e, err := range s.Extents(0, 32*mib) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, bytes.Repeat([]byte{map[bool]byte{false: 1}[e.Hole]}, int(e.Length/512))...)
	}
	var runs []struct {
		Start, Offset, Length int64
		Data                  bool
		Type                  int
	}
	check := func(who string, data func(i int) (off int64, stored bool)) {
		t.Helper()
		got := make([]byte, 32*mib/512)
		for i, r := range runs {
			if off, stored := data(i); stored {
				for s := off / 512; s < (off+r.Length)/512; s++ {
					got[s] = 1
				}
			}
		}
		if len(runs) < 4 || !bytes.Equal(got, want) {
			t.Errorf("%s sees other holes: %+v", who, runs)
		}
	}
	decode := func(text string) {
		t.Helper()
		runs = nil
		if err := json.Unmarshal([]byte(text), &runs); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	decode(tool(t, "qemu-img", "map", "-f", "raw", "--output=json", s.uri))
	check("qemu-img", func(i int) (int64, bool) { return runs[i].Start, runs[i].Data })
	decode(tool(t, "nbdinfo", "--map", "--json", s.uri))
	check("nbdinfo", func(i int) (int64, bool) { return runs[i].Offset, runs[i].Type == 0 })
	if info := tool(t, "nbdinfo", s.uri); !strings.Contains(info, "export-size: 33554432") {
		t.Errorf("nbdinfo: %s", info)
	}
	if list := tool(t, "nbdinfo", "--list", s.uri); !strings.Contains(list, `export="disk"`) {
		t.Errorf("nbdinfo --list: %s", list)
	}
}

// TestReadOnly: what is served for reading is not written.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	name, content := newChain(t, t.TempDir(), 8*mib, 2)
	s := serve(t, name, nbd.Options{ReadOnly: true})
	tool(t, "nbdsh", "-u", s.uri, "-c", `
assert h.is_read_only() and not h.can_trim() and not h.can_zero()
h.set_strict_mode(0)
for write in (lambda: h.pwrite(b"x", 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
    try:
        write()
        assert False
    except nbd.Error as e:
        assert e.errno == "EPERM", e.errno
h.flush()`)
	if !bytes.Equal(readAll(t, s, 8*mib), content) {
		t.Error("content differs")
	}
}

// TestFio writes and reads back over several connections, as deep as fio's engine goes.
func TestFio(t *testing.T) {
	t.Parallel()
	name, _ := newChain(t, t.TempDir(), 64*mib, 3)
	s := serve(t, name, nbd.Options{})
	for _, args := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=32"},
		{"--rw=randrw", "--bssplit=512/30:4k/30:64k/30:1m/10", "--iodepth=16", "--fsync=50"},
		{"--rw=write", "--bs=1m", "--iodepth=8"},
	} {
		out := tool(t, "fio", append([]string{"--name=v", "--ioengine=nbd", "--uri=" + s.uri, "--size=16m", "--offset_increment=16m", "--numjobs=4",
			"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--group_reporting", "--minimal"}, args...)...)
		if !strings.Contains(out, "fio") {
			t.Errorf("fio says %s", out)
		}
	}
}
