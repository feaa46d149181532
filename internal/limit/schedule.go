package limit

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Amount is how much of a line may be taken. The zero value is all of it.
type Amount struct {
	off     bool
	percent int   // 1 to 100
	bytes   int64 // a second
}

// Off is nothing at all.
var Off = Amount{off: true}

// Off reports whether nothing may be taken.
func (a Amount) Off() bool { return a.off }

// Unlimited reports whether all may be taken.
func (a Amount) Unlimited() bool {
	return !a.off && a.bytes == 0 && (a.percent == 0 || a.percent == 100)
}

// String returns the text form.
func (a Amount) String() string {
	switch {
	case a.off:
		return "off"
	case a.percent > 0:
		return fmt.Sprintf("%d%%", a.percent)
	case a.bytes == 0:
		return "unlimited"
	}
	n, unit := a.bytes, ""
	for _, u := range []string{"K", "M", "G"} {
		if n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return fmt.Sprintf("%d%s", n, unit)
}

const (
	minutesADay  = 24 * 60
	minutesAWeek = 7 * minutesADay
)

// span is a run of minutes of a day, from the first to before the last; one that wraps midnight ends at or before its start.
type span struct{ from, to int }

// entry is an amount and when it holds.
type entry struct {
	amount Amount
	always bool
	days   [7]bool // by time.Weekday
	spans  []span  // none: the whole day
}

// holds reports whether it is the entry's time at a minute of a day.
func (e *entry) holds(day time.Weekday, minute int) bool {
	if e.always || len(e.spans) == 0 && e.days[day] {
		return true
	}
	before := (day + 6) % 7
	for _, s := range e.spans {
		switch {
		case s.from < s.to:
			if e.days[day] && s.from <= minute && minute < s.to {
				return true
			}
		case e.days[day] && minute >= s.from, e.days[before] && minute < s.to:
			return true
		}
	}
	return false
}

// String returns the text form.
func (e *entry) String() string {
	if e.always {
		return e.amount.String()
	}
	var b strings.Builder
	b.WriteString(e.amount.String() + "@")
	every := e.days == everyDay
	if !every || len(e.spans) == 0 {
		b.WriteString(daysText(e.days))
	}
	for i, s := range e.spans {
		switch {
		case i > 0:
			b.WriteByte(',')
		case !every:
			b.WriteByte('/')
		}
		b.WriteString(clock(s.from) + "-" + clock(s.to))
	}
	return b.String()
}

var (
	// dayNames are in the order of a week that begins on Monday; time.Weekday begins on Sunday.
	dayNames = [7]string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}
	everyDay = [7]bool{true, true, true, true, true, true, true}
)

// weekday returns the day with a place in dayNames.
func weekday(i int) time.Weekday { return time.Weekday((i + 1) % 7) }

func daysText(days [7]bool) string {
	var spans []string
	for i := 0; i < 7; i++ {
		if !days[weekday(i)] {
			continue
		}
		last := i
		for last < 6 && days[weekday(last+1)] {
			last++
		}
		switch text := dayNames[i]; last {
		case i:
			spans = append(spans, text)
		default:
			spans = append(spans, text+"-"+dayNames[last])
		}
		i = last
	}
	return strings.Join(spans, ",")
}

func clock(minute int) string {
	if minute%60 == 0 {
		return fmt.Sprint(minute / 60)
	}
	return fmt.Sprintf("%d:%02d", minute/60, minute%60)
}

// Schedule says how much of a line may be taken at which time. The zero value is all of it, always. It is immutable.
type Schedule struct{ entries []entry }

// Always returns a schedule that does not depend on the time.
func Always(a Amount) Schedule { return Schedule{[]entry{{amount: a, always: true}}} }

// String returns the text form, which Parse reads to the same schedule.
func (s Schedule) String() string {
	out := make([]string, len(s.entries))
	for i := range s.entries {
		out[i] = s.entries[i].String()
	}
	return strings.Join(out, ";")
}

// At returns the amount at a time, in that time's zone.
func (s Schedule) At(t time.Time) Amount {
	return s.at(t.Weekday(), t.Hour()*60+t.Minute())
}

func (s Schedule) at(day time.Weekday, minute int) Amount {
	for i := len(s.entries) - 1; i >= 0; i-- {
		if s.entries[i].holds(day, minute) {
			return s.entries[i].amount
		}
	}
	return Amount{}
}

// Next returns when the amount next becomes another than it is at t; the zero time: never.
func (s Schedule) Next(t time.Time) time.Time {
	if !slices.ContainsFunc(s.entries, func(e entry) bool { return !e.always }) {
		return time.Time{}
	}
	now := s.At(t)
	// Minute by minute, as clocks show them: an hour may come twice, or not at all. A week and a day covers every case.
	next := t.Truncate(time.Minute)
	for range minutesAWeek + minutesADay {
		if next = next.Add(time.Minute); s.At(next) != now {
			return next
		}
	}
	return time.Time{}
}
