package agefile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/agefile"
	"disksync/internal/testkit"
)

func newKey(t testing.TB) agefile.Identity {
	t.Helper()
	k, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func seal(t testing.TB, plain []byte, recipients ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := agefile.Writer(&b, recipients)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var sizes = []int{0, 1, 100, agefile.ChunkSize - 1, agefile.ChunkSize, agefile.ChunkSize + 1, 2 * agefile.ChunkSize, 5*agefile.ChunkSize + 77}

// TestReadAtRandom: whatever is read of a file of whatever size is what was written, by each recipient and from ranges alone.
func TestReadAtRandom(t *testing.T) {
	one, two := newKey(t), newKey(t)
	for _, n := range sizes {
		plain := content(n)
		sealed := seal(t, plain, one.Recipient(), two.Recipient())
		for _, k := range []agefile.Identity{one, two} {
			f, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{newKey(t), k})
			if err != nil || f.Size() != int64(n) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			got, err := io.ReadAll(io.NewSectionReader(f.Reader(), 0, f.Size()))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes: %d read, %v", n, len(got), err)
			}
			r := rand.New(rand.NewPCG(uint64(n), 1))
			for range 20 {
				if n == 0 {
					break
				}
				off := r.IntN(n)
				p := make([]byte, 1+r.IntN(n-off))
				if _, err := f.Reader().ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, plain[off:off+len(p)]) {
					t.Fatalf("%d bytes at %d of %d: %v", len(p), off, n, err)
				}
			}
			i, last, err := f.Last()
			if err != nil || !bytes.HasSuffix(plain, last) || i != int64(max(n-1, 0)/agefile.ChunkSize) {
				t.Errorf("%d bytes: the last chunk is number %d: %v", n, i, err)
			}
			if _, err := f.Reader().ReadAt(make([]byte, 1), int64(n)); !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %v", err)
			}
		}
	}
}

// TestStockTool: the age program of the system reads what is written here, and what it writes is read here.
func TestStockTool(t *testing.T) {
	age := testkit.Tool(t, "age")
	dir := t.TempDir()
	one, two := newKey(t), newKey(t)
	for i, k := range []agefile.Identity{one, two} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("# a key\n"+k.Secret()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range sizes[1:] {
		plain := content(n)
		for i := range 2 {
			cmd := exec.Command(age, "-d", "-i", filepath.Join(dir, fmt.Sprint(i)))
			cmd.Stdin = bytes.NewReader(seal(t, plain, one.Recipient(), two.Recipient()))
			if out, err := cmd.Output(); err != nil || !bytes.Equal(out, plain) {
				t.Errorf("%d bytes with key %d: %d read, %v", n, i, len(out), err)
			}
		}
		cmd := exec.Command(age, "-r", two.Recipient(), "-r", one.Recipient())
		cmd.Stdin = bytes.NewReader(plain)
		sealed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		f, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{one})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(io.NewSectionReader(f.Reader(), 0, f.Size())); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes of age: %d read, %v", n, len(got), err)
		}
	}
}

// TestTampered: each byte that is changed, and each that is cut off, is found, or was not read.
func TestTampered(t *testing.T) {
	k := newKey(t)
	plain := content(3*agefile.ChunkSize + 500)
	sealed := seal(t, plain, k.Recipient())
	read := func(b []byte) ([]byte, error) {
		f, err := agefile.Open(bytes.NewReader(b), int64(len(b)), []agefile.Identity{k})
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.NewSectionReader(f.Reader(), 0, f.Size()))
	}
	if got, err := read(sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("as it was: %v", err)
	}
	bad := func(name string, b []byte) {
		t.Helper()
		if _, err := read(b); !errors.Is(err, agefile.ErrDamaged) && !errors.Is(err, agefile.ErrNoKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := range len(sealed) {
		if at > 400 && at < len(sealed)-40 && at%977 != 0 {
			continue
		}
		b := bytes.Clone(sealed)
		b[at] ^= 4
		bad(fmt.Sprintf("byte %d flipped", at), b)
	}
	for n := 0; n < len(sealed); n += 1 + n/9 {
		bad(fmt.Sprintf("%d bytes alone", n), sealed[:n])
	}
	bad("whole chunks alone", sealed[:len(sealed)-516])
	bad("more behind", append(bytes.Clone(sealed), 0))
	swapped := bytes.Clone(sealed)
	start := len(sealed) - 516 - 3*agefile.SealedChunk
	copy(swapped[start:], sealed[start+agefile.SealedChunk:start+2*agefile.SealedChunk])
	copy(swapped[start+agefile.SealedChunk:], sealed[start:start+agefile.SealedChunk])
	bad("two chunks exchanged", swapped)
	other := seal(t, plain, k.Recipient())
	copy(other[len(other)-600:], sealed[len(sealed)-600:])
	bad("the end of another file", other)
	if _, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{newKey(t)}); !errors.Is(err, agefile.ErrNoKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), nil); !errors.Is(err, agefile.ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
}

// TestKeys: what is a key and what is not, and that secrets are in no text.
func TestKeys(t *testing.T) {
	k, other := newKey(t), newKey(t)
	ids, err := agefile.ParseIdentities([]byte("\ufeff# mine\r\n" + k.Secret() + "\r\n\n  " + other.Secret()))
	if err != nil || len(ids) != 2 || ids[0].Recipient() != k.Recipient() || ids[1].Secret() != other.Secret() {
		t.Fatalf("%v, %v", ids, err)
	}
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %s %q", k, ids, k, ids)} {
		if strings.Contains(text, "SECRET") || strings.Contains(text, k.Secret()[20:]) || !strings.Contains(text, k.Recipient()) {
			t.Errorf("it says %s", text)
		}
	}
	for _, bad := range []string{"", "# nothing\n", k.Recipient(), k.Secret() + "x", k.Secret()[:40], "AGE-PLUGIN-X-1QQ", strings.ToLower(k.Secret())[:30],
		strings.Repeat(k.Secret()+"\n", 1001)} {
		_, err := agefile.ParseIdentities([]byte(bad))
		if !errors.Is(err, agefile.ErrKey) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	r := k.Recipient()
	typo := r[:20] + string("qp"[strings.Count(r[20:21], "q")]) + r[21:]
	for _, bad := range []string{"", "age1", typo, strings.ToUpper(r), r + "q", k.Secret(), "ssh-ed25519 AAAA"} {
		if err := agefile.CheckRecipient(bad); !errors.Is(err, agefile.ErrKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := agefile.CheckRecipient(r); err != nil {
		t.Error(err)
	}
	if _, err := agefile.Writer(io.Discard, nil); err == nil {
		t.Error("for nobody")
	}
	var many []string
	for range agefile.MaxRecipients {
		many = append(many, newKey(t).Recipient())
	}
	sealed := seal(t, content(9), append(many[1:], r)...)
	if f, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{k}); err != nil || f.Size() != 9 {
		t.Errorf("with as many recipients as may be: %v", err)
	}
	if _, err := agefile.Writer(io.Discard, append(many, r)); err == nil {
		t.Error("for too many")
	}
}

// FuzzOpen: no file makes it panic, or read behind its ends.
func FuzzOpen(f *testing.F) {
	k, err := agefile.ParseIdentities([]byte("AGE-SECRET-KEY-19XAKEGGNDX0ML2QH2G6F9V78HHN0KMPUGPTY4EPH7PE42WH22EHQMJU9C3"))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 10, agefile.ChunkSize + 9} {
		f.Add(seal(f, content(n), k[0].Recipient()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := agefile.Open(bytes.NewReader(b), int64(len(b)), k)
		if err != nil {
			return
		}
		if got, err := io.ReadAll(io.NewSectionReader(file.Reader(), 0, file.Size())); err == nil && int64(len(got)) != file.Size() {
			t.Errorf("%d bytes of %d", len(got), file.Size())
		}
	})
}
