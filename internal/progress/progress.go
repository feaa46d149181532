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

// Meter shows the progress of one piece of work after the other. It is safe for concurrent use.
type Meter struct {
	w io.Writer
	// columns returns the width of the terminal; nil: w is none, and plain lines are written.
	columns func() int
	now     func() time.Time

	mu    sync.Mutex
	work  work
	bar   *progressbar.ProgressBar // of the work; nil: there is no terminal, or nobody knows the total
	shown time.Time                // when the work was shown last
	last  string                   // the line that was shown last
	drawn bool                     // something without a line's end is on the screen
}

const (
	// lineEvery is the time between lines where there is no terminal.
	lineEvery = 5 * time.Second
	// drawEvery is the time between drawings of the bar: often enough for the eye, rarely enough not to flicker.
	drawEvery = 100 * time.Millisecond
	// someColumns is what a terminal has that does not tell.
	someColumns = 80
)

// New returns a Meter that writes to w; a nil w shows nothing.
func New(w io.Writer) *Meter {
	m := &Meter{w: w, now: time.Now}
	if w == nil {
		m.w = io.Discard
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		m.columns = func() int {
			n, _, err := term.GetSize(int(f.Fd()))
			if err != nil || n <= 0 {
				return someColumns
			}
			return n
		}
	}
	return m
}

// Show sets what is being done, how many of how many bytes are done, and a detail, such as where the bytes come from. A new
// title begins a new piece of work. Several goroutines may tell of the same work in any order: it never goes back.
func (m *Meter) Show(title string, done, total int64, detail string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if title != m.work.title || total != m.work.total {
		m.finish(now)
		m.work = work{title: title, total: total, base: done, started: now}
		m.bar = m.newBar()
		m.shown = time.Time{}
		if m.columns == nil {
			m.shown = now // work that takes no time needs one line, at its end
		}
	}
	m.work.detail = detail
	m.work.update(done, now)
	every := lineEvery
	if m.columns != nil {
		every = drawEvery
	}
	if now.Sub(m.shown) >= every {
		m.shown = now
		m.put(now, false)
	}
}

// Note prints a line above the bar.
func (m *Meter) Note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := printable(fmt.Sprintf(format, args...))
	if !m.drawn {
		fmt.Fprintln(m.w, text)
		return
	}
	fmt.Fprintf(m.w, "\r%s%s\n", text, eraseToEnd)
	m.drawn, m.last = false, ""
	m.put(m.now(), false)
}

// Done ends the piece of work, leaving what is shown of it as it is.
func (m *Meter) Done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finish(m.now())
	m.work, m.bar = work{}, nil
}

// finish shows the last state of the work. Work of which nothing was done is not worth a line.
func (m *Meter) finish(now time.Time) {
	if m.work.title != "" && (m.drawn || m.work.done > 0) {
		m.put(now, true)
	}
	if m.drawn {
		fmt.Fprintln(m.w)
	}
	m.drawn, m.last = false, ""
}

// eraseToEnd makes a terminal clear what is left of the line.
const eraseToEnd = "\x1b[K"

// put draws the bar, or writes a line.
func (m *Meter) put(now time.Time, over bool) {
	switch {
	case m.bar != nil:
		m.bar.Describe(m.work.beside(now, over, m.columns()-besideBar))
		// The description is there before the number: a bar that has reached its total is drawn no more.
		_ = m.bar.Set64(min(m.work.done, m.work.total)) // can only say that it is more than the total
		m.drawn = true
	case m.columns != nil:
		m.drawn = true
		fmt.Fprintf(m.w, "\r%s%s", cut(m.work.line(now, over), m.columns()-1), eraseToEnd)
	default:
		if s := m.work.line(now, over); s != m.last {
			m.last = s
			fmt.Fprintln(m.w, s)
		}
	}
}

const (
	// widestBar is the width of a bar where there is room for it; where there is less, it shrinks.
	widestBar = 30
	// besideBar is how many columns have to be left for the percentage, the narrowest bar that tells anything, and spaces.
	besideBar = len(" 100% [..........]    ")
)

// newBar returns a bar for the work, or nil. It only draws: rates and times are the work's own, as those of the bar count what
// was there before the start as done in no time.
func (m *Meter) newBar() *progressbar.ProgressBar {
	if m.columns == nil || m.work.total <= 0 {
		return nil
	}
	return progressbar.NewOptions64(m.work.total,
		progressbar.OptionSetWriter(m.w), progressbar.OptionUseANSICodes(true), progressbar.OptionSetWidth(widestBar),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: "#", SaucerPadding: ".", BarStart: "[", BarEnd: "]"}),
		progressbar.OptionShowDescriptionAtLineEnd(), progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false))
}

// Bytes returns n for people, in units of 1024: "512 B", "1.5 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	units := "KMGTPE"
	v := float64(n) / 1024
	i := 0
	for v >= 999.95 && i < len(units)-1 { // so that no number has four digits before the point
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// duration returns d for people: "7s", "3m20s", "1h05m".
func duration(d time.Duration) string {
	switch s := int64(d.Round(time.Second) / time.Second); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
}

func join(parts ...string) string {
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}
