package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// work is how far one piece of work is.
type work struct {
	title   string
	detail  string
	done    int64
	total   int64 // 0: nobody knows
	started time.Time
	base    int64 // done when started: what was there before does not count for the rate
	samples []sample
}

// sample is how much was done at some time.
type sample struct {
	at   time.Time
	done int64
}

const (
	// rateWindow is the time over which the rate is taken: long enough to be read, short enough to be true.
	rateWindow  = 10 * time.Second
	sampleEvery = time.Second
)

func (w *work) update(done int64, now time.Time) {
	if done > w.done {
		w.done = done
	}
	if n := len(w.samples); n == 0 || now.Sub(w.samples[n-1].at) >= sampleEvery {
		w.samples = append(w.samples, sample{now, w.done})
	}
	for len(w.samples) > 2 && now.Sub(w.samples[1].at) >= rateWindow {
		w.samples = w.samples[1:]
	}
}

// rate returns bytes a second: of late, or over all when the work is over; 0 when it is too early to tell.
func (w *work) rate(now time.Time, over bool) float64 {
	since := sample{w.started, w.base}
	if !over && len(w.samples) > 0 {
		since = w.samples[0]
	}
	gone := now.Sub(since.at).Seconds()
	if gone < 0.5 || w.done <= since.done {
		return 0
	}
	return float64(w.done-since.done) / gone
}

func (w *work) percent() int64 {
	return 100 * min(w.done, w.total) / w.total
}

// amounts says how much is done: "3.0 of 40.0 MiB".
func (w *work) amounts() string {
	total := Bytes(w.total)
	if w.done >= w.total {
		return total
	}
	done := Bytes(w.done)
	if n, unit, ok := strings.Cut(done, " "); ok && strings.HasSuffix(total, " "+unit) {
		done = n
	}
	return done + " of " + total
}

// speed says how fast it goes, and how long it takes or took.
func (w *work) speed(now time.Time, over bool) (rate, left string) {
	r := w.rate(now, over)
	if r == 0 {
		return "", ""
	}
	rate = Bytes(int64(r)) + "/s"
	switch {
	case w.done >= w.total:
		left = "in " + duration(now.Sub(w.started))
	case !over:
		left = duration(time.Duration(float64(w.total-w.done)/r*1e9)) + " left"
	}
	return rate, left
}

// line is the work as plain text.
func (w *work) line(now time.Time, over bool) string {
	if w.total <= 0 {
		return join(printable(w.title), inBrackets(w.detail))
	}
	rate, left := w.speed(now, over)
	return join(printable(w.title), fmt.Sprintf("%d%%", w.percent()), w.amounts(), rate, left, inBrackets(w.detail))
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return "(" + printable(s) + ")"
}

// beside is the work as text to the right of a bar, at most width columns wide. What has no room is left out, the least
// important first.
func (w *work) beside(now time.Time, over bool, width int) string {
	title := printable(w.title)
	rate, left := w.speed(now, over)
	parts := []string{title, w.amounts(), rate, left, inBrackets(w.detail)}
	for _, without := range []int{-1, 1, 2, 4, 3} {
		if without >= 0 {
			parts[without] = ""
		}
		if s := spaced(parts); utf8.RuneCountInString(s) <= width {
			return s
		}
	}
	return cut(title, width)
}

// spaced sets the parts that are not empty side by side.
func spaced(parts []string) string {
	full := make([]string, 0, len(parts))
	for _, p := range parts {
		if p != "" {
			full = append(full, p)
		}
	}
	return strings.Join(full, "  ")
}

// cut shortens s, which is printable, to at most width columns.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width, 0)])
}

// printable keeps text from elsewhere, such as names on a medium, from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
