package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// clock is a time that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }

// screen is a terminal of one line, of which the rest is kept too. As it is no file, a bar keeps its width on it.
type screen struct {
	bytes.Buffer
	wide int
}

func newMeter(columns int) (*Meter, *screen, *clock) {
	s, c := &screen{wide: columns}, &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	m := &Meter{w: s, now: c.now}
	if columns > 0 {
		m.columns = func() int { return s.wide }
	}
	return m, s, c
}

// lines plays what was written, as a terminal does.
func (s *screen) lines(t *testing.T) []string {
	t.Helper()
	var out []string
	line := ""
	for rest := s.String(); rest != ""; {
		switch {
		case rest[0] == '\r':
			line, rest = "", rest[1:] // what is written over it is always longer, or erased; see below
		case rest[0] == '\n':
			out, line, rest = append(out, line), "", rest[1:]
		case strings.HasPrefix(rest, eraseToEnd):
			rest = rest[len(eraseToEnd):]
		case strings.HasPrefix(rest, "\x1b[0K"): // the same, as the bar says it
			rest = rest[len("\x1b[0K"):]
		default:
			r, n := utf8.DecodeRuneInString(rest)
			if r < ' ' || r == 0x7f {
				t.Fatalf("control character %q on the screen", r)
			}
			line += string(r)
			rest = rest[n:]
		}
	}
	out = append(out, line)
	for i := range out {
		out[i] = strings.TrimRight(out[i], " ")
	}
	return out
}

func want(t *testing.T, s *screen, lines ...string) {
	t.Helper()
	if got := s.lines(t); strings.Join(got, "\n") != strings.Join(lines, "\n") {
		t.Errorf("on the screen:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

const mib = 1 << 20

func TestLines(t *testing.T) {
	m, s, c := newMeter(0)
	for i := range int64(41) {
		m.Show("win7 version 1", i*mib, 40*mib, "transfer: usb "+Bytes(i*mib))
		c.pass(300 * time.Millisecond)
	}
	m.Note("the line is interrupted")
	m.Show("verify", 0, 10*mib, "") // nothing came of it
	m.Show("export", 5*mib, 5*mib, "")
	m.Done()
	m.Done()
	want(t, s,
		"win7 version 1 42% 17.0 of 40.0 MiB 3.3 MiB/s 7s left (transfer: usb 17.0 MiB)",
		"win7 version 1 85% 34.0 of 40.0 MiB 3.3 MiB/s 2s left (transfer: usb 34.0 MiB)",
		"the line is interrupted",
		"win7 version 1 100% 40.0 MiB 3.3 MiB/s in 12s (transfer: usb 40.0 MiB)",
		"export 100% 5.0 MiB",
		"")
}

func TestBar(t *testing.T) {
	m, s, c := newMeter(110)
	m.Show("win7 version 1", 10*mib, 40*mib, "transfer: usb 10.0 MiB") // 10 MiB were there before
	want(t, s, "  25% [#######.......................]  win7 version 1  10.0 of 40.0 MiB  (transfer: usb 10.0 MiB)")
	c.pass(2 * time.Second)
	m.Show("win7 version 1", 20*mib, 40*mib, "network 1.0 MiB")
	want(t, s, "  50% [###############...............]  win7 version 1  20.0 of 40.0 MiB  5.0 MiB/s  4s left  (network 1.0 MiB)")
	m.Note("note: a stick was pulled out")
	want(t, s, "note: a stick was pulled out",
		"  50% [###############...............]  win7 version 1  20.0 of 40.0 MiB  5.0 MiB/s  4s left  (network 1.0 MiB)")
	c.pass(time.Second)
	m.Show("win7 version 1", 40*mib, 40*mib, "")
	m.Done()
	want(t, s, "note: a stick was pulled out", " 100% [##############################]  win7 version 1  40.0 MiB  10.0 MiB/s  in 3s", "")
	m.Show("verify system", 1*mib, 2*mib, "")
	m.Note("note: the end")
	c.pass(time.Second)
	m.Done() // as an interrupt ends it
	if got := s.lines(t); got[len(got)-2] != "  50% [###############...............]  verify system  1.0 of 2.0 MiB" {
		t.Errorf("an interrupted bar is left as %q", got[len(got)-2])
	}
}

// TestAnyWidth: whatever the width, what stands beside a bar has room, and what matters most is there.
func TestAnyWidth(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := work{title: "win7 version 12", detail: "transfer: usb 9.8 GiB, network 10.2 GiB", total: 40 << 30, started: begin}
	w.update(20<<30, begin)
	w.samples = nil
	for _, test := range []struct {
		wide int
		want string
	}{
		{200, "win7 version 12  20.0 of 40.0 GiB  5.0 MiB/s  1h08m left  (transfer: usb 9.8 GiB, network 10.2 GiB)"},
		{95, "win7 version 12  5.0 MiB/s  1h08m left  (transfer: usb 9.8 GiB, network 10.2 GiB)"},
		{75, "win7 version 12  1h08m left  (transfer: usb 9.8 GiB, network 10.2 GiB)"},
		{50, "win7 version 12  1h08m left"},
		{20, "win7 version 12"},
		{6, "win7 v"},
		{0, ""},
		{-3, ""},
	} {
		if got := w.beside(begin.Add(4096*time.Second), false, test.wide); got != test.want {
			t.Errorf("width %d: %q, want %q", test.wide, got, test.want)
		}
	}
}

// TestResize: a terminal that becomes narrower gets shorter lines at once.
func TestResize(t *testing.T) {
	m, s, c := newMeter(80)
	m.Show("win7 version 1", 0, 40*mib, "")
	s.wide = 40
	s.Reset()
	c.pass(time.Second)
	m.Show("win7 version 1", 20*mib, 40*mib, "")
	want(t, s, "  50% [###############...............]  win7 version 1")
}

// TestBarIsDrawnRarely: drawing is for eyes, however often progress is told.
func TestBarIsDrawnRarely(t *testing.T) {
	m, s, c := newMeter(80)
	for i := range int64(10000) {
		m.Show("x", i, 10000, "")
		c.pass(time.Millisecond)
	}
	m.Done()
	// The bar draws at each new text and at each new number.
	if n := strings.Count(s.String(), "\r"); n > 2*110 || n < 2*90 {
		t.Errorf("drawn %d times in 10 s", n)
	}
}

// TestNeverBack: workers tell in any order; the bar goes one way only.
func TestNeverBack(t *testing.T) {
	m, s, c := newMeter(0)
	for _, done := range []int64{5, 9, 10, 7, 3} {
		m.Show("x", done*mib, 10*mib, "")
		c.pass(time.Millisecond)
	}
	m.Done()
	want(t, s, "x 100% 10.0 MiB", "")
}

// TestStrangeNames: what is shown is no way into the terminal.
func TestStrangeNames(t *testing.T) {
	for _, columns := range []int{0, 100} {
		m, s, _ := newMeter(columns)
		m.Show("a\x1b[2Jb\r\n", 1, 2, "c\x07\u202ed\xff")
		m.Note("note: %s", "e\x1b]0;f\x07\ng")
		m.Done()
		got := strings.Join(s.lines(t), "|")
		for _, bad := range []string{"\x1b", "\x07", "\u202e", "\r"} {
			if strings.Contains(got, bad) {
				t.Errorf("%q is on the screen", bad)
			}
		}
		if !strings.Contains(got, "a?[2Jb??") || !strings.Contains(got, "note: e?]0;f??g") {
			t.Errorf("on the screen: %q", got)
		}
	}
}

func TestUnknownTotal(t *testing.T) {
	m, s, _ := newMeter(0)
	m.Show("install", 0, 0, "")
	m.Done()
	want(t, s, "")
	m, s, _ = newMeter(80)
	m.Show("install", 0, 0, "usb")
	want(t, s, "install (usb)")
}

func TestNothing(t *testing.T) {
	m := New(nil)
	m.Show("x", 1, 2, "")
	m.Note("y")
	m.Done()
	New(&bytes.Buffer{}).Done()
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1000 << 10: "1.0 MiB", 999 << 10: "999.0 KiB", 1 << 20: "1.0 MiB", 1<<40 + 1<<39: "1.5 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Millisecond: "2s", 59*time.Second + 600*time.Millisecond: "1m00s", 65 * time.Second: "1m05s",
		2*time.Hour + 3*time.Minute: "2h03m", 100 * time.Hour: "100h00m",
	} {
		if got := duration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
