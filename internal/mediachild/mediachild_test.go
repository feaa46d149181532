package mediachild_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"disksync/internal/mediachild"
	"disksync/internal/testkit"
	"disksync/volume"
)

var programs = testkit.NewShipped("internal/mediachild/testchild")

func TestMain(m *testing.M) {
	code := m.Run()
	programs.Remove()
	os.Exit(code)
}

// options start the test's child, which begins as it is told.
func options(t testing.TB, how string) mediachild.Options {
	return mediachild.Options{Command: []string{programs.Path(t, "testchild"), "testchild", how}, Timeout: testkit.Patience}
}

func image(t testing.TB, b []byte) string {
	t.Helper()
	// Nobody but the owner may read it: the child gets it open.
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func open(t testing.TB, b []byte, o mediachild.Options) (*mediachild.Device, *mediachild.Volume) {
	t.Helper()
	return openFile(t, image(t, b), o)
}

func openFile(t testing.TB, file string, o mediachild.Options) (*mediachild.Device, *mediachild.Volume) {
	t.Helper()
	d, err := mediachild.Open(file, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, d.Volumes()[0]
}

func readAll(v volume.Tree, name string) ([]byte, error) {
	f, err := v.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, f.Size())
	n, err := f.ReadAt(b, 0)
	return b[:n], err
}

// TestRead: what comes through a child is what is there: names, bytes at all places and lengths, and errors of every kind.
func TestRead(t *testing.T) {
	t.Parallel()
	want := content(5<<20 + 77)
	var log bytes.Buffer
	o := options(t, "")
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	d, v := open(t, want, o)
	if v.Name() != "partition 1" || v.Info() != (volume.Info{Type: "odd", Label: "L", ID: "1-2", BlockSize: 512}) {
		t.Errorf("%s %+v", v.Name(), v.Info())
	}
	if n := d.Notes(); len(n) != 1 || n[0] != "partition 2: odd" {
		t.Errorf("notes %q", n)
	}
	if log.Len() != 0 {
		t.Errorf("something could not be taken from the child: %s", log.String())
	}
	entries, err := v.ReadDir(".")
	if err != nil || fmt.Sprint(entries) != fmt.Sprint([]volume.Entry{{Name: "all", Size: int64(len(want))}, {Name: "folder", Dir: true}}) {
		t.Errorf("%+v, %v", entries, err)
	}
	if entries, err := v.ReadDir("damaged"); !errors.Is(err, volume.ErrDamaged) || len(entries) != 2 {
		t.Errorf("%+v, %v", entries, err)
	}
	if entries, err := v.ReadDir("full"); err != nil || len(entries) != volume.MaxEntries {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	_, err = v.ReadDir("nowhere")
	if _, openErr := v.Open("nowhere"); !errors.Is(err, fs.ErrNotExist) || !errors.Is(openErr, fs.ErrNotExist) {
		t.Error(err, openErr)
	}
	if _, err := v.Open("folder"); !errors.Is(err, volume.ErrUnsupported) {
		t.Error(err)
	}
	f, err := v.Open("all")
	if err != nil {
		t.Fatal(err)
	}
	if f.Size() != int64(len(want)) || f.Place(4711) != 4711 || f.Place(1<<40) != -1 {
		t.Errorf("%d bytes, %d", f.Size(), f.Place(4711))
	}
	if err := iotest.TestReader(io.NewSectionReader(f, 1<<20, 700), want[1<<20:][:700]); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]int{{0, len(want)}, {1, len(want)}, {len(want) - 1, 5}, {len(want), 1}, {3 << 20, 4 << 20}, {100, 0}, {1 << 20, 256 << 10}} {
		b := make([]byte, c[1])
		n, err := f.ReadAt(b, int64(c[0]))
		if full := c[0]+c[1] <= len(want); full && err != nil || !full && err != io.EOF || !bytes.Equal(b[:n], want[c[0]:min(c[0]+c[1], len(want))]) {
			t.Errorf("%d bytes at %d: %d, %v", c[1], c[0], n, err)
		}
	}
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			if b, err := readAll(v, "all"); err != nil || !bytes.Equal(b, want) {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	readers.Wait()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed file: %v", err)
	}
}

// TestForbidden: a child cannot do anything but read and answer.
func TestForbidden(t *testing.T) {
	t.Parallel()
	_, v := open(t, content(100), options(t, ""))
	b, err := readAll(v, "forbidden")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) < 30 {
		t.Fatalf("%d calls were tried", len(lines))
	}
	for _, l := range lines {
		if !strings.HasSuffix(l, "\tEPERM") {
			t.Errorf("a child did %s", l)
		}
	}
}

// TestRights: a child that root has started is nobody, under all names that a user has, without capabilities, and under a sandbox.
func TestRights(t *testing.T) {
	t.Parallel()
	d, _ := open(t, content(100), options(t, ""))
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.Pid()))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	want := []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000"}
	if os.Geteuid() == 0 {
		want = append(want, "Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t ")
	}
	for _, w := range want {
		for _, file := range tasks {
			if s, err := os.ReadFile(file); err != nil || !strings.Contains(string(s), "\n"+w+"\n") {
				t.Errorf("%s has not %q: %v\n%s", file, w, err, s)
			}
		}
	}
}

// TestFailures: whatever happens to a child, it is damage of the medium; the next question gets another child, and a second failure is
// the last.
func TestFailures(t *testing.T) {
	t.Parallel()
	want := content(3 << 20)
	for _, c := range []struct {
		file, says string
		hangs      bool
	}{
		{"panic", "the file is too odd", false},
		{"bomb", "out of memory", false},
		{"exit", "exit status 0", false},
		{"short", "wrong answer", false},
		{"hang", "took too long", true},
		{"loop", "took too long", true},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			o := options(t, "")
			if c.hangs {
				o.Timeout = time.Second
			}
			d, v := open(t, want, o)
			all, err := v.Open("all")
			if err != nil {
				t.Fatal(err)
			}
			for round := range 2 {
				_, err := readAll(v, c.file)
				if !errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("round %d: %v", round, err)
				}
				b := make([]byte, len(want))
				_, err = all.ReadAt(b, 0)
				switch {
				case round == 0 && (err != nil || !bytes.Equal(b, want)):
					t.Errorf("a file that was open before is not read by the next child: %v", err)
				case round == 1 && !errors.Is(err, volume.ErrDamaged):
					t.Errorf("there is a third child: %v", err)
				}
			}
			if err := errors.Join(all.Close(), d.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("folders", func(t *testing.T) {
		t.Parallel()
		for _, dir := range []string{"bad-name", "bad-size", "panic"} {
			_, v := open(t, want, options(t, ""))
			if _, err := v.ReadDir(dir); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("%s: %v", dir, err)
			}
			if b, err := readAll(v, "all"); err != nil || !bytes.Equal(b, want) {
				t.Errorf("after %s: %v", dir, err)
			}
		}
	})
}

// TestBadBeginnings: a child that fails at once, or is none, is an error soon.
func TestBadBeginnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		how  string
		is   error
		says string
	}{
		{"end", volume.ErrDamaged, "exit status 3"},
		{"sleep", volume.ErrDamaged, "took too long"},
		{"nonsense", volume.ErrDamaged, "wrong answer"},
		{"endless", volume.ErrDamaged, "wrong answer"},
		{"panic", volume.ErrDamaged, "the file system is too odd"},
		{"bomb", volume.ErrDamaged, "out of memory"},
		{"other", volume.ErrOther, "it is odd"},
	} {
		o := options(t, c.how)
		if c.how == "sleep" {
			o.Timeout = 300 * time.Millisecond
		}
		if _, err := mediachild.Open(image(t, nil), o); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.how, err)
		}
	}
	o := options(t, "many")
	if d, _ := open(t, nil, o); len(d.Volumes()) != 16 || len(d.Notes()) != 64 || len(d.Notes()[0]) != 1024 {
		t.Errorf("%d volumes, %d notes", len(d.Volumes()), len(d.Notes()))
	}
	if _, err := mediachild.Open(image(t, nil), mediachild.Options{Command: []string{"/nowhere", "x"}}); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestWhatIsNoDevice: what could wait, or do something when it is opened, is not opened.
func TestWhatIsNoDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, dir, "/dev/null", "/dev/tty"} {
		if _, err := mediachild.Open(path, options(t, "")); !errors.Is(err, mediachild.ErrNoDevice) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := mediachild.Open(filepath.Join(dir, "nothing"), options(t, "")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := mediachild.Serve(mediachild.Readers{}); err == nil {
		t.Error("a program that nobody started as a child serves")
	}
}

// TestCloseWhileReading: closing a device ends who reads, and the child.
func TestCloseWhileReading(t *testing.T) {
	t.Parallel()
	d, v := open(t, content(100), options(t, ""))
	f, err := v.Open("hang")
	if err != nil {
		t.Fatal(err)
	}
	pid := d.Pid()
	ended := make(chan error)
	go func() {
		_, err := f.ReadAt(make([]byte, 1), 0)
		ended <- err
	}()
	testkit.Until(t, "the read begins", d.Asked)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child is there still: %v", err)
	}
	if err := d.Close(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}
