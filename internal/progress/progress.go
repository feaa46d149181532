// Package progress shows people how far long work is: a bar on a terminal, plain lines elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Meter shows the progress of one piece of work. It is safe for concurrent use.
type Meter struct {
	w     io.Writer
	lines bool

	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	title   string
	total   int64
	done    int64
	started time.Time
	base    int64 // done when started: what was there before does not count for the rate
	shown   time.Time
	last    string
	detail  string
}

// lineEvery is the time between lines where there is no terminal.
const lineEvery = 5 * time.Second

// New returns a Meter that writes to w; a nil w shows nothing.
func New(w io.Writer) *Meter {
	m := &Meter{w: w, lines: true}
	if w == nil {
		m.w = io.Discard
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.lines = false
	}
	return m
}

// Show sets what is being done, how many of how many bytes are done, and a detail, such as where the bytes come from. A new
// title begins a new bar.
func (m *Meter) Show(title string, done, total int64, detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if title != m.title || total != m.total {
		m.finish()
		m.title, m.total, m.base, m.started = title, total, done, time.Now()
		m.shown = m.started
	}
	m.done, m.detail = done, detail
	if m.lines {
		m.line(false)
		return
	}
	if m.bar == nil && total > 0 {
		m.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionShowTotalBytes(true),
			progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(), progressbar.OptionUseANSICodes(true))
	}
	if m.bar != nil {
		m.bar.Describe(strings.TrimSpace(title + "  " + detail))
		_ = m.bar.Set64(done) // it can only say that done is more than total
	}
}

// Note prints a line above the bar.
func (m *Meter) Note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		_ = m.bar.Clear()
	}
	fmt.Fprintf(m.w, format+"\n", args...)
}

// Done ends the current bar, leaving it as it is.
func (m *Meter) Done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finish()
	m.title = ""
}

func (m *Meter) finish() {
	if m.title == "" {
		return
	}
	if m.lines {
		m.line(true)
	} else if m.bar != nil {
		fmt.Fprintln(m.w)
		m.bar = nil
	}
}

// line prints a plain line when the last one is old enough, and the last one of each piece of work.
func (m *Meter) line(force bool) {
	now := time.Now()
	if !force && now.Sub(m.shown) < lineEvery {
		return
	}
	s := m.text(now)
	if s == m.last {
		return
	}
	m.shown, m.last = now, s
	fmt.Fprintln(m.w, s)
}

func (m *Meter) text(now time.Time) string {
	s := m.title
	if m.total > 0 {
		s += fmt.Sprintf(" %3d%% %s of %s", 100*min(m.done, m.total)/m.total, Bytes(m.done), Bytes(m.total))
	}
	if m.detail != "" {
		s += " (" + m.detail + ")"
	}
	if gone := now.Sub(m.started).Seconds(); gone > 0.5 && m.done > m.base {
		rate := float64(m.done-m.base) / gone
		s += fmt.Sprintf(" %s/s", Bytes(int64(rate)))
		if m.done < m.total {
			s += fmt.Sprintf(", %v left", time.Duration(float64(m.total-m.done)/rate*1e9).Round(time.Second))
		}
	}
	return s
}

// Bytes returns n for people, in units of 1024: "512 B", "1.5 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	units := "KMGTPE"
	v := float64(n) / 1024
	i := 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
