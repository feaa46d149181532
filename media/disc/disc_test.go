package disc_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
	"disksync/media/disc"
)

// made is a time that a test's images have.
var made = time.Date(2026, 3, 1, 12, 30, 15, 0, time.UTC)

// pattern returns what a test's file has at off: marks where sections and extents end, zeros between them, so that it is sparse.
type pattern struct{ seed, size int64 }

const mark = 64 << 10

func (p pattern) marks() []int64 {
	out := []int64{0}
	for _, at := range []int64{1<<30 - mark, 1 << 30, 1<<32 - mark, 1 << 32} {
		if at+mark < p.size {
			out = append(out, at)
		}
	}
	if p.size > 2*mark {
		out = append(out, p.size-mark)
	}
	slices.Sort(out)
	return out
}

// bytes returns the content of a mark.
func (p pattern) bytes(at int64) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", p.seed, at))
	return bytes.Repeat(sum[:], mark/32)[:min(mark, p.size-at)]
}

// compare reads everything from r and reports whether it is the pattern.
func (p pattern) compare(r io.Reader) error {
	zeros, buf := make([]byte, 1<<20), make([]byte, 1<<20)
	at := int64(0)
	next := func(n int64) ([]byte, error) {
		_, err := io.ReadFull(r, buf[:n])
		at += n
		return buf[:n], err
	}
	for _, m := range append(p.marks(), p.size) {
		for at < m {
			if b, err := next(min(m-at, int64(len(buf)))); err != nil || !bytes.Equal(b, zeros[:len(b)]) {
				return fmt.Errorf("something is wrong before %d: %v", at, err)
			}
		}
		for want := p.bytes(m)[min(at-m, int64(len(p.bytes(m)))):]; len(want) > 0; want = nil {
			if b, err := next(int64(len(want))); err != nil || !bytes.Equal(b, want) {
				return fmt.Errorf("something is wrong at %d: %v", m, err)
			}
		}
	}
	if n, _ := r.Read(buf); n > 0 {
		return fmt.Errorf("more than %d bytes", p.size)
	}
	return nil
}

func (p pattern) write(t *testing.T, f *os.File, off int64) {
	t.Helper()
	if p.size == 0 {
		return
	}
	for _, at := range p.marks() {
		if _, err := f.WriteAt(p.bytes(at), off+at); err != nil {
			t.Fatal(err)
		}
	}
}

// burn writes an image with files of the sizes.
func burn(t *testing.T, v disc.Volume) (string, *disc.Layout) {
	t.Helper()
	l, err := disc.Plan(v)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "disc.iso")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(l.Head(), 0); err != nil {
		t.Fatal(err)
	}
	for i, file := range v.Files {
		if l.Offset(i) < int64(len(l.Head())) || i > 0 && l.Offset(i) < l.Offset(i-1)+v.Files[i-1].Size {
			t.Fatalf("file %d at %d", i, l.Offset(i))
		}
		pattern{int64(i), file.Size}.write(t, f, l.Offset(i))
	}
	off, tail := l.Tail()
	if _, err := f.WriteAt(tail, off); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != l.Size() || l.Size()%disc.SectorSize != 0 {
		t.Fatalf("%d bytes, announced %d, %v", st.Size(), l.Size(), err)
	}
	return name, l
}

func sample(large int64) disc.Volume {
	return disc.Volume{Label: "WIN7-gold.2", Set: "0123456789abcdef", Time: made, Files: []disc.File{
		{Name: "win7-system-001-eca9fa70a620.dsl", Size: 100_001},
		{Name: "empty", Size: 0},
		{Name: "large.dsl", Size: large},
		{Name: strings.Repeat("long-", 20) + "name-part02.dsp", Size: 2048},
		{Name: strings.Repeat("long-", 20) + "name-part03.dsp", Size: 2047},
		{Name: "win7-v3.manifest.json", Size: 1702},
	}}
}

func run(t *testing.T, stdin string, command ...string) string {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, command[0]), command[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// TestTools has other programs read an image with a file of more than 4 GiB.
func TestTools(t *testing.T) {
	t.Parallel()
	v := sample(4<<30 + 200_001)
	name, _ := burn(t, v)
	if out := run(t, "", "blkid", "-p", name); !strings.Contains(out, `TYPE="udf"`) || !strings.Contains(out, `LABEL="WIN7-gold.2"`) {
		t.Errorf("blkid: %s", out)
	}
	t.Run("7z udf", func(t *testing.T) {
		t.Parallel()
		list := run(t, "", "7z", "l", "-slt", "-tudf", name)
		for i, f := range v.Files {
			if !strings.Contains(list, fmt.Sprintf("Path = %s\nFolder = -\nSize = %d\n", f.Name, f.Size)) {
				t.Errorf("%s is not there:\n%s", f.Name, list)
			}
			if f.Size > 0 {
				checkOutput(t, pattern{int64(i), f.Size}, "7z", "e", "-so", "-tudf", name, f.Name)
			}
		}
	})
	t.Run("7z iso", func(t *testing.T) {
		t.Parallel()
		list := run(t, "", "7z", "l", "-slt", "-tiso", name)
		sizes := regexp.MustCompile(`(?m)^Path = (\S+)\nFolder = -\nSize = (\d+)$`).FindAllStringSubmatch(list, -1)
		if len(sizes) != len(v.Files) {
			t.Errorf("%d files: %s", len(sizes), list)
		}
		for i, f := range v.Files {
			if !slices.ContainsFunc(sizes, func(m []string) bool { return m[2] == fmt.Sprint(f.Size) }) {
				t.Errorf("no file of %d bytes: %s", f.Size, list)
			}
			if len(f.Name) < 60 && f.Size > 0 {
				checkOutput(t, pattern{int64(i), f.Size}, "7z", "e", "-so", "-tiso", name, f.Name)
			}
		}
	})
	t.Run("xorriso", func(t *testing.T) {
		t.Parallel()
		out := run(t, "", "xorriso", "-indev", name, "-lsl", "/", "--")
		if !strings.Contains(out, fmt.Sprint(v.Files[2].Size)) || strings.Contains(out, "FAILURE") || strings.Contains(out, "SORRY") {
			t.Errorf("%s", out)
		}
	})
	t.Run("isoinfo", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{"-J", "-f"}, {"-f"}} {
			out := run(t, "", slices.Concat([]string{"isoinfo"}, args, []string{"-i", name})...)
			// It lists each section of a long file.
			if n := strings.Count(out, "\n"); n != len(v.Files)+1 {
				t.Errorf("%d lines:\n%s", n, out)
			}
		}
		if out := run(t, "", "isoinfo", "-J", "-x", "/"+v.Files[0].Name+";1", "-i", name); out != string(content(pattern{0, v.Files[0].Size})) {
			t.Errorf("%d bytes are read otherwise", len(out))
		}
	})
	t.Run("udfclient", func(t *testing.T) {
		t.Parallel()
		set := regexp.MustCompile(`\S*:WIN7-gold\.2\S*`).FindString(run(t, "ls\nquit\n", "udfclient", "-b", "2048", name))
		dir := t.TempDir()
		out := run(t, fmt.Sprintf("cd %q\nls\nlcd %s\nget %s\nget empty\nquit\n", set, dir, v.Files[0].Name), "udfclient", "-b", "2048", name)
		for _, f := range v.Files {
			if !strings.Contains(out, f.Name) || !strings.Contains(out, fmt.Sprint(f.Size)) {
				t.Errorf("%s is not there:\n%s", f.Name, out)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, v.Files[0].Name)); err != nil || !bytes.Equal(b, content(pattern{0, v.Files[0].Size})) {
			t.Errorf("%d bytes, read otherwise, %v", len(b), err)
		}
	})
}

// TestOpen reads images back, and finds every damage of their tables.
func TestOpen(t *testing.T) {
	t.Parallel()
	v := sample(300_000)
	name, l := burn(t, v)
	run(t, "", "7z", "t", "-tudf", name)
	run(t, "", "7z", "t", "-tiso", name)
	image, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, damaged, err := disc.Open(bytes.NewReader(image))
	if err != nil || len(damaged) > 0 {
		t.Fatalf("damaged sectors %v, %v", damaged, err)
	}
	if diff := cmp.Diff(v, got.Volume); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	head := int64(len(l.Head()))
	off, tail := l.Tail()
	found, lost := 0, 0
	for at := int64(0); at < int64(len(image)); at += 311 {
		if at >= head && at < off {
			at = off
		}
		image[at] ^= 0x10
		switch _, damaged, err := disc.Open(bytes.NewReader(image)); {
		case errors.Is(err, disc.ErrFormat):
			lost++
		case err != nil || !slices.Contains(damaged, at/disc.SectorSize):
			t.Errorf("byte %d: damaged sectors %v, %v", at, damaged, err)
		default:
			found++
		}
		image[at] ^= 0x10
	}
	// Only what the files are found by makes the image useless.
	if found < 1000 || lost == 0 || lost > 30 {
		t.Errorf("%d damages found, with %d the files were lost; the tail has %d bytes", found, lost, len(tail))
	}
	for _, cut := range []int{0, 100, 40 * 2048, 260 * 2048} {
		if _, _, err := disc.Open(bytes.NewReader(image[:cut])); !errors.Is(err, disc.ErrFormat) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
}

// TestLong lays out files so long that their extents need blocks of their own. Nothing is written.
func TestLong(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{233 << 30, 234 << 30, 235 << 30, 700 << 30, 4 << 40} {
		l, err := disc.Plan(disc.Volume{Label: "L", Set: "0123456789abcdef", Time: made, Files: []disc.File{{Name: "a", Size: size}, {Name: "b", Size: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "long.iso")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		off, tail := l.Tail()
		_, err1 := f.WriteAt(l.Head(), 0)
		_, err2 := f.WriteAt(tail, off)
		if err := errors.Join(err1, err2, f.Close()); err != nil {
			t.Skipf("the file system takes no such file: %v", err)
		}
		for _, kind := range []string{"-tudf", "-tiso"} {
			if out := run(t, "", "7z", "l", "-slt", kind, name); !strings.Contains(out, fmt.Sprintf("Size = %d\n", size)) || !strings.Contains(out, "Path = b\n") {
				t.Errorf("%d bytes, %s: %s", size, kind, out)
			}
		}
		if _, err := disc.Plan(disc.Volume{Label: "L", Set: "0123456789abcdef", Time: made, Files: []disc.File{{Name: "a", Size: 9 << 40}}}); !errors.Is(err, disc.ErrTooLarge) {
			t.Errorf("9 TiB: %v", err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	v := sample(3000)
	l, err := disc.Plan(v)
	if err != nil {
		f.Fatal(err)
	}
	const from = 257 * 2048
	head := l.Head()
	f.Add(head[32*2048:33*2048], head[from:min(len(head), from+20*2048)])
	f.Fuzz(func(t *testing.T, primary, files []byte) {
		b := bytes.Clone(head)
		copy(b[32*2048:33*2048], primary)
		copy(b[from:], files)
		got, _, err := disc.Open(bytes.NewReader(b))
		if err == nil && got.Size() < int64(len(got.Head())) {
			t.Fatal("an image smaller than its tables")
		}
	})
}

// content returns a small pattern.
func content(p pattern) []byte {
	b := make([]byte, p.size)
	for _, at := range p.marks() {
		copy(b[at:], p.bytes(at))
	}
	return b
}

// checkOutput compares what a command prints with a pattern.
func checkOutput(t *testing.T, p pattern, command ...string) {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, command[0]), command[1:]...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.compare(out), cmd.Wait()); err != nil {
		t.Errorf("%s gives other bytes: %v", strings.Join(command, " "), err)
	}
}
