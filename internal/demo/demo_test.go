package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"disksync/deploy"
	"disksync/internal/testkit"
	"disksync/internal/testkit/privbus"
)

// asDemo makes the test program be the demonstration.
const asDemo = "DISKSYNC_DEMO_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asDemo) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// smallBytes of files make a disk of enough blocks to be killed in the middle of.
const smallBytes = 12 << 20

func small(t *testing.T) options {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src")
	return options{dir: t.TempDir(), source: source, maxBytes: smallBytes, lineSeconds: 3}
}

func TestWithBus(t *testing.T) {
	t.Parallel() // most of the time it waits
	testkit.Tool(t, privbus.Daemon)
	out := check(t, small(t))
	if !strings.Contains(out, "the administrator has turned enable-usb-cache off") {
		t.Error("xec did not turn the use of sticks off")
	}
}

func TestStandalone(t *testing.T) {
	t.Parallel()
	o := small(t)
	o.standalone = true
	check(t, o)
}

// check runs the demonstration and compares its report with what must be in it. It returns what was printed.
func check(t *testing.T, o options) string {
	t.Helper()
	var out bytes.Buffer
	o.out = &out
	r, err := demonstrate(t.Context(), o)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		what           string
		stick, network bool
		healed, kept   bool
		unfinished     bool
	}{
		{what: "stick and network", stick: true, network: true},
		{what: "update", network: true},
		{what: "rollback, offline"},
		{what: "forward again"},
		{what: "damaged stick", stick: true, network: true, healed: true},
		{what: "no stick, killed", network: true, unfinished: true},
		{what: "went on", network: true, kept: true},
	}
	if len(r.deployments) != len(want) {
		t.Fatalf("%d deployments, want %d", len(r.deployments), len(want))
	}
	for i, w := range want {
		d := r.deployments[i]
		if d.what != w.what || d.unfinished != w.unfinished || d.identical == w.unfinished {
			t.Errorf("deployment %d: %+v", i, d)
		}
		if d.bytes[deploy.USB] > 0 != w.stick || d.bytes[deploy.Network] > 0 != w.network {
			t.Errorf("%s: bytes by source: %v", d.what, d.bytes)
		}
		if d.healed > 0 != w.healed || d.kept > 0 != w.kept || d.verified > 0 != (w.network && !w.unfinished) {
			t.Errorf("%s: verified %d, healed %d, kept %d", d.what, d.verified, d.healed, d.kept)
		}
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, o.dir) {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	empty(t, o.dir)
	return out.String()
}

// empty checks that nothing was left in the folder, and nobody.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s was left behind", e.Name())
	}
	// Where there is no /proc, there is nothing to see.
	places, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		if at, err := os.Readlink(p); err == nil && strings.HasPrefix(at, dir) {
			t.Errorf("a process still runs: %s in %s", filepath.Dir(p), at)
		}
	}
}

// TestInterrupted: an interrupt at any moment leaves nothing behind.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, at string
		signal   syscall.Signal
	}{
		{"while the programs are built", "go build", syscall.SIGINT},
		{"while services run", "synchronizer media write", syscall.SIGTERM},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := small(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "--dir", o.dir, "--source", o.source, "--max-bytes", "8000000")
			cmd.Env = append(os.Environ(), asDemo+"=1")
			var complaints bytes.Buffer
			cmd.Stderr = &complaints
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for lines.Scan() && !strings.Contains(lines.Text(), test.at) {
			}
			if err := cmd.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, out); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the status says more
			if got := cmd.ProcessState.ExitCode(); got != exitInterrupted {
				t.Errorf("exit status %d, want %d: %s", got, exitInterrupted, complaints.String())
			}
			empty(t, o.dir)
		})
	}
}

// TestUnheard: a reader who goes away, as in "make demo | head", ends it.
func TestUnheard(t *testing.T) {
	o := small(t)
	r, w := io.Pipe()
	_ = r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	o.out, o.unheard = w, cancel
	if _, err := demonstrate(ctx, o); err == nil {
		t.Error("it went on")
	}
	empty(t, o.dir)
}

func TestNoFolder(t *testing.T) {
	_, err := demonstrate(t.Context(), options{dir: filepath.Join(t.TempDir(), "absent"), out: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("error %v, want a hint", err)
	}
}

// TestWrong: what is not as it should be is printed and counted.
func TestWrong(t *testing.T) {
	var out bytes.Buffer
	d := &demo{console: &console{out: &out}}
	d.expect(true, "never")
	d.expect(false, "%d blocks are gone", 2)
	if len(d.report.wrong) != 1 || !strings.Contains(out.String(), "2 blocks are gone") {
		t.Errorf("%q %q", d.report.wrong, out.String())
	}
	row := deployment{laptop: "laptop-1"}.row()
	if got := row[len(row)-1]; got != "NO" {
		t.Errorf("a disk that differs is shown as %q", got)
	}
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("disk"), 1<<19)
	other := bytes.Clone(content)
	other[len(other)-1] ^= 1
	names := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
	for i, b := range [][]byte{content, other, content[:len(content)-1]} {
		if err := os.WriteFile(names[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := compare(t.Context(), names[0], names[0]); err != nil || n != int64(len(content)) {
		t.Errorf("a file and itself: %d %v", n, err)
	}
	for _, b := range names[1:] {
		if _, err := compare(t.Context(), names[0], b); err == nil {
			t.Errorf("%s is not a, but identical", b)
		}
	}
}
