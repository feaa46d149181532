package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"disksync/internal/testkit"
)

// asBench makes the test program be the benchmark, as when it runs itself for a part.
const asBench = "DISKSYNC_BENCH_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asBench) != "" {
		os.Exit(run())
	}
	if err := findAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// tiny returns options for a comparison that takes seconds.
func tiny(t *testing.T, cases ...string) options {
	t.Helper()
	for _, tool := range fsTools {
		testkit.Tool(t, tool)
	}
	t.Setenv(asBench, "1")
	o := options{bin: t.TempDir(), dir: t.TempDir(), runs: 1, size: minSize, limit: time.Minute, cases: cases, chain: 3, log: io.Discard}
	o.page = filepath.Join(o.bin, "page.md")
	if err := testkit.Build(o.bin, "cmd/synchronizer", "cmd/disksyncmgr"); err != nil {
		t.Fatal(err)
	}
	return o
}

// threeVersions makes a small disk in three versions, the second with files deleted, and the same with free space discarded.
func threeVersions(t *testing.T) string {
	t.Helper()
	dir, tree := t.TempDir(), t.TempDir()
	c := newContent(7)
	for i, b := range [][]byte{c.text(700 << 10), c.random(900 << 10), c.text(300 << 10)} {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint("f", i)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	tool("mkfs.ext4", "-q", "-F", "-b", "4096", "-d", tree, "v1.raw", "16M")
	tool("cp", "v1.raw", "v2.raw")
	tool("debugfs", "-w", "-R", "write "+filepath.Join(tree, "f2")+" more", "v2.raw")
	tool("debugfs", "-w", "-R", "rm /f1", "v2.raw")
	tool("cp", "v2.raw", "v3.raw")
	tool("debugfs", "-w", "-R", "write "+filepath.Join(tree, "f0")+" again", "v3.raw")
	for _, v := range []string{"v2", "v3"} {
		tool("cp", v+".raw", v+"t.raw")
		tool("e2fsck", "-fn", "-E", "discard", v+"t.raw")
	}
	return dir
}

// TestComparison runs all of it with small disks, and all other programs that are installed.
func TestComparison(t *testing.T) {
	o := tiny(t, "byte")
	o.work = threeVersions(t)
	tables, err := measureAll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.page)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{ // rows of ours
		"Publishing version 1": 1, "Deploying version 1 from a stick": 2, "Update from version 1 to 2": 1, "Update from version 2 to 3": 1,
		"Update from version 1 to 3": 2, "One byte": 1,
	}
	for _, tab := range tables {
		if tab.kind == noTable {
			continue
		}
		ours, others := 0, map[string]bool{}
		for _, r := range tab.rows {
			others[strings.Fields(r.name)[0]] = true
			if r.ours {
				ours++
			}
			runs := 1
			if r.name == warmName { // two laptops begin like that
				runs = 2
			}
			if r.failed != "" || len(r.runs) != runs {
				t.Errorf("%s: %s: %d runs, %s", tab.title, r.name, len(r.runs), r.failed)
			}
			if !strings.Contains(string(b), "| "+r.name+" |") && !strings.Contains(string(b), "| **"+r.name+"** |") {
				t.Errorf("%s: the page has no %s", tab.title, r.name)
			}
			for _, x := range r.runs {
				s := x.update
				if tab.kind == publishes {
					s = x.prepare
				}
				if s.wall <= 0 || s.peak <= 0 || tab.kind == updates && x.fetched <= 0 {
					t.Errorf("%s: %s was not measured: %+v", tab.title, r.name, x)
				}
			}
		}
		if ours != want[tab.title] {
			t.Errorf("%s: %d rows of ours, want %d", tab.title, ours, want[tab.title])
		}
		delete(want, tab.title)
		for _, p := range peers() {
			if tab.kind == updates && (p.often || tab.title == "One byte" && !p.thorough) && installed(p.tool) && !others[p.tool] {
				t.Errorf("%s: no row of %s", tab.title, p.tool)
			}
		}
	}
	for title := range want {
		t.Errorf("there is no table %q", title)
	}
	for _, secret := range []string{o.dir, "127.0.0.1:4", "fingerprint SHA256"} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the page says %q, which is another one with every run", secret)
		}
	}
	empty(t, o.dir)
}

// TestCases makes all disks, and compares with nobody.
func TestCases(t *testing.T) {
	o := tiny(t)
	o.peers = []string{"nobody"}
	o.cases = []string{"byte", "clusters", "moved", "grown", "upgraded"}
	tables, err := measureAll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	byTitle := map[string]*row{}
	for _, tab := range tables {
		for _, r := range tab.rows {
			if len(r.runs) != 1 || !r.ours {
				t.Errorf("%s: %s: %d runs", tab.title, r.name, len(r.runs))
			}
			byTitle[tab.title] = r
		}
	}
	// What it costs at least and at most, so that a case that changes nothing, or everything, is found.
	for title, at := range map[string][2]int64{
		"One byte": {5_000, 16_384}, "5 % of the clusters": {100_000, 400_000}, "A moved file": {5_000, 60_000},
		"A larger disk": {5_000, 60_000}, "A file system is upgraded in place": {5_000, 200_000},
	} {
		r := byTitle[title]
		if r == nil {
			t.Errorf("there is no table %q", title)
			continue
		}
		if n := r.fetched(); n < at[0] || n > at[1] {
			t.Errorf("%s: %d bytes, want %d to %d", title, n, at[0], at[1])
		}
	}
	empty(t, o.dir)
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

// TestTooSlow: a program that takes too long is stopped and has a row that says so, and the others go on.
func TestTooSlow(t *testing.T) {
	testkit.Tool(t, "zstd")
	o := tiny(t, "byte")
	o.peers, o.limit, o.runs = []string{"zstd"}, time.Microsecond, 2
	tables, err := measureAll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	rows := tables[len(tables)-1].rows
	if len(rows) != 3 || rows[1].failed != "stopped after 1µs" || len(rows[0].runs) != 2 {
		t.Errorf("%+v", rows)
	}
	if b, err := os.ReadFile(o.page); err != nil || !strings.Contains(string(b), "stopped after 1µs |") {
		t.Errorf("the page does not say so: %v", err)
	}
}

// TestInterrupted: an interrupt leaves nothing behind, and the page as it was.
func TestInterrupted(t *testing.T) {
	o := tiny(t, "byte")
	ctx, cancel := context.WithCancel(t.Context())
	o.log = cancelAt{cancel, "run 1 of"}
	if _, err := measureAll(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(o.page); err == nil {
		t.Error("it wrote a page")
	}
	empty(t, o.dir)
}

// cancelAt interrupts when something is said.
type cancelAt struct {
	cancel func()
	words  string
}

func (c cancelAt) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.words) {
		c.cancel()
	}
	return len(b), nil
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--runs", "0"}, {"--size", "1"}, {"extra"}, {"--limit", "0s"}, {"--nonsense"}} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), asBench+"=1")
		_ = cmd.Run() // the status says more
		if got := cmd.ProcessState.ExitCode(); got != exitUsage {
			t.Errorf("%v: exit status %d", args, got)
		}
	}
}

// TestDifferent: a disk that is not what it should be is found, wherever the difference is.
func TestDifferent(t *testing.T) {
	dir := t.TempDir()
	want := newContent(3).random(2*pieceBytes + 777)
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	disk := write("want", want)
	if err := sameFile(write("same", want), disk); err != nil {
		t.Error(err)
	}
	for _, at := range []int{0, pieceBytes, len(want) - 1} {
		b := bytes.Clone(want)
		b[at] ^= 1
		if sameFile(write("other", b), disk) == nil {
			t.Errorf("a difference at %d was not found", at)
		}
		if _, err := sameButFree(write("other", b), disk); err == nil {
			t.Errorf("a difference at %d was not found, free space left out", at)
		}
	}
	for _, b := range [][]byte{want[:len(want)-1], append(bytes.Clone(want), 0)} {
		if sameFile(write("other", b), disk) == nil {
			t.Errorf("%d bytes are the same as %d", len(b), len(want))
		}
	}
}

func TestDisks(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 3*pieceBytes+5000)
	copy(content[cluster:], newContent(4).random(cluster))
	copy(content[2*pieceBytes+4*cluster:], "words")
	content[len(content)-1] = 1
	name := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	packedTo := filepath.Join(dir, "disk.packed")
	n, err := pack(name, packedTo)
	want := slices.Concat(content[cluster:2*cluster], content[2*pieceBytes+4*cluster:2*pieceBytes+5*cluster], content[3*pieceBytes+cluster:])
	if got, readErr := os.ReadFile(packedTo); errors.Join(err, readErr) != nil || !bytes.Equal(got, want) || n != int64(len(want)) {
		t.Errorf("packed %d bytes, want %d: %v", n, len(want), errors.Join(err, readErr))
	}
	copied := filepath.Join(dir, "copy.raw")
	if err := errors.Join(copyDisk(name, copied), sameFile(copied, name)); err != nil {
		t.Error(err)
	}
	for limit, pieces := range map[int64]int{1 << 30: 1, int64(len(content)): 1, int64(len(content)) - 1: 2, pieceBytes: 4} {
		names, err := split(name, limit)
		if err != nil || len(names) != pieces {
			t.Errorf("%d: %q %v", limit, names, err)
		}
		var joined []byte
		for _, p := range names {
			b, err := os.ReadFile(p)
			if err != nil || int64(len(b)) > limit {
				t.Errorf("a piece of %d bytes, at most %d: %v", len(b), limit, err)
			}
			joined = append(joined, b...)
		}
		if !bytes.Equal(joined, content) {
			t.Errorf("%d: the pieces are not the file", limit)
		}
	}
}

// TestLine: every byte is counted, in both directions, and a line starts anew when it was asked.
func TestLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c)
				_, _ = c.Write(append(b, b...))
				c.Close()
			}()
		}
	}()
	way, err := openLine(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := net.Dial("tcp", way.address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); err != nil || len(b) != 200_000 {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		c.Close()
		if n, err := way.count(t.Context()); err != nil || n != 300_000 {
			t.Errorf("counted %d bytes: %v", n, err)
		}
	}
	c, err := net.Dial("tcp", way.address()) // stays open
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := way.close(); err != nil {
		t.Error(err)
	}
}

// TestServeRanges: several ranges at once are what they should be, and begin with the empty line that zsync waits for.
func TestServeRanges(t *testing.T) {
	dir := t.TempDir()
	content := newContent(5).random(10_000)
	if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(asBench, "1")
	cmd := exec.CommandContext(t.Context(), os.Args[0], asPart, partWeb, dir)
	p := testkit.StartProgram(t, cmd)
	get := func(ranges string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Line+"/file", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", ranges)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, b
	}
	res, body := get("bytes=0-9,500-999, 9990-20000")
	_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || res.StatusCode != http.StatusPartialContent || !bytes.HasPrefix(body, []byte("\r\n--")) {
		t.Fatalf("%v %v %q", err, res.Status, body[:10])
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, want := range [][]byte{content[:10], content[500:1000], content[9990:]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, want %d", err, len(got), len(want))
		}
	}
	if _, err := parts.NextPart(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last part: %v", err)
	}
	for _, ranges := range []string{"bytes=5-1,2-3", "bytes=a-b,1-2", "bytes=-5,1-2", "bytes=1-2,10000-10001"} {
		if res, _ := get(ranges); res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%s: %s", ranges, res.Status)
		}
	}
}

func TestRatios(t *testing.T) {
	of := func(fetched int64, wall time.Duration) []result {
		return []result{{fetched: fetched, update: sample{wall: wall}}}
	}
	tab := &table{kind: updates, rows: []*row{
		{name: "ours", ours: true, runs: of(50, 4*time.Second)},
		{name: "a", runs: of(200, 2*time.Second)},
		{name: "b", runs: of(100, 8*time.Second)},
		{name: "patch", partly: true, runs: of(25, time.Second)},
		{name: "broken", failed: "it broke", runs: of(1, 1)},
	}}
	got := strings.Join(tab.verdict(), " ")
	for _, want := range []string{"fetches 2.00 times", "(patch)", "0.50 times what the best does that updates a disk (b)", "2.00 times as long", "(a)"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if c := tab.cells(tab.rows[4], 14); len(c) != 14 || c[1] != "it broke" {
		t.Errorf("%q", c)
	}
	if c := tab.cells(tab.rows[1], 14); len(c) != 14 || c[2] != "8.00" {
		t.Errorf("%q", c)
	}
	alone := &table{kind: updates, rows: tab.rows[:1]}
	if got := strings.Join(alone.verdict(), ""); !strings.Contains(got, "alone") {
		t.Errorf("%q", got)
	}
	fetched := func(x result) int64 { return x.fetched }
	if got := median([]result{{fetched: 9}, {fetched: 1}, {fetched: 4}}, fetched); got != 4 {
		t.Errorf("median %d", got)
	}
	if got := median(nil, fetched); got != 0 {
		t.Errorf("median of nothing %d", got)
	}
	if got := digits(1234567) + digits(12); got != "1 234 56712" {
		t.Errorf("%q", got)
	}
}

// TestBlocks compares block devices only, and leaves the rest of the page as it is.
func TestBlocks(t *testing.T) {
	for _, tool := range blocksTools {
		testkit.Tool(t, tool)
	}
	t.Setenv(asBench, "1")
	o := options{bin: t.TempDir(), dir: t.TempDir(), runs: 1, size: minSize, limit: time.Minute, cases: []string{blocksCase}, chain: 3, log: io.Discard}
	o.page = filepath.Join(o.bin, "page.md")
	if err := testkit.Build(o.bin, "cmd/vhd-util"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.page, []byte("# Page\n\n## Before\n\nkept\n\n## Exact commands\n\nkept, too\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := measureAll(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.page)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	before, after, _ := strings.Cut(page, "## "+blocksTitle)
	if before != "# Page\n\n## Before\n\nkept\n\n" || !strings.HasSuffix(after, "\n\n## Exact commands\n\nkept, too\n") || strings.Contains(after, blocksTitle) {
		t.Errorf("the page is\n%s", page)
	}
	if got := replaceSection(page, blocksTitle, "## "+blocksTitle+"\n\nnew\n\n"); got != before+"## "+blocksTitle+"\n\nnew\n\n## Exact commands\n\nkept, too\n" {
		t.Errorf("with another section the page is\n%s", got)
	}
	for _, l := range loads() {
		if !strings.Contains(after, "\n| "+l.name+" | ") {
			t.Errorf("there is no row %q", l.name)
		}
	}
	if left, err := filepath.Glob(filepath.Join(o.dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPageNowhere sees that a page that cannot be written is told before anything is measured.
func TestPageNowhere(t *testing.T) {
	o := options{page: filepath.Join(t.TempDir(), "missing", "page.md"), dir: t.TempDir()}
	if _, err := measureAll(t.Context(), o); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--page") {
		t.Errorf("measuring without a folder for the page: %v", err)
	}
	empty(t, o.dir)
}

// TestBackups makes backups with all programs that are installed, on a disk so small that it takes little time. There is no page before.
func TestBackups(t *testing.T) {
	for _, p := range backupers() {
		testkit.Tool(t, p.tool)
	}
	o := tiny(t)
	o.peers, o.cases = nil, []string{backupsCase}
	if _, err := measureAll(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## " + backupsTitle + "\n", "\n| **" + oursName + "** | ", "\n| restic | ", "\n| borg, zstd | "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the page has no %q:\n%s", want, b)
		}
	}
	empty(t, o.dir)
}
