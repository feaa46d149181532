package limit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of the text form.
const (
	// MinRate is the least that can be asked for, in bytes a second: with less, the answer to a request does not arrive before
	// somebody gives up. Who wants nothing says off.
	MinRate = 100
	// MaxRate keeps sums of rates and times in their types.
	MaxRate = 1 << 40
	// MaxText bounds the text of a schedule, in bytes.
	MaxText    = 1000
	maxEntries = 50
)

// Parse reads the text form of a schedule: see the package's comment.
func Parse(text string) (Schedule, error) {
	if len(text) > MaxText {
		return Schedule{}, fmt.Errorf("a limit of %d bytes of text; at most %d make sense", len(text), MaxText)
	}
	if strings.Trim(text, " ") == "" {
		return Schedule{}, nil
	}
	parts := strings.Split(text, ";")
	if len(parts) > maxEntries {
		return Schedule{}, fmt.Errorf("a limit with %d entries; at most %d make sense", len(parts), maxEntries)
	}
	var s Schedule
	for _, part := range parts {
		e, err := parseEntry(strings.ToLower(strings.Trim(part, " ")))
		if err != nil {
			return Schedule{}, fmt.Errorf("limit %q: %w", part, err)
		}
		s.entries = append(s.entries, e)
	}
	return s, nil
}

func parseEntry(text string) (entry, error) {
	amount, when, timed := strings.Cut(text, "@")
	a, err := parseAmount(amount)
	if err != nil || !timed {
		return entry{amount: a, always: true}, err
	}
	e := entry{amount: a, days: everyDay}
	days, hours, both := strings.Cut(when, "/")
	if !both && when != "" && '0' <= when[0] && when[0] <= '9' {
		days, hours, both = "", when, true
	} else if e.days, err = parseDays(days); err != nil {
		return e, err
	}
	if both {
		e.spans, err = parseHours(hours)
	}
	return e, err
}

var errAmount = errors.New("want unlimited, off, a part as 60%, or bytes a second as 500K, 1.5M or 1G")

func parseAmount(text string) (Amount, error) {
	switch text {
	case "unlimited":
		return Amount{}, nil
	case "off", "0":
		return Off, nil
	}
	if p, ok := strings.CutSuffix(text, "%"); ok {
		n, err := digits(p, 3)
		if err != nil || n < 1 || n > 100 {
			return Amount{}, errors.New("a part is a whole number from 1% to 100%; nothing at all is off")
		}
		return Amount{percent: n}, nil
	}
	number, shift := text, 0
	for i, unit := range []string{"k", "m", "g"} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	whole, fraction, dot := strings.Cut(number, ".")
	n, err := digits(whole, 13)
	if err != nil || dot && shift == 0 {
		return Amount{}, errAmount
	}
	bytes := float64(n)
	if dot {
		f, err := digits(fraction, 6)
		if err != nil {
			return Amount{}, errAmount
		}
		for range fraction {
			bytes *= 10
		}
		bytes += float64(f)
		for range fraction {
			bytes /= 10
		}
	}
	bytes *= float64(int64(1) << shift)
	if bytes < MinRate || bytes > MaxRate {
		return Amount{}, fmt.Errorf("a rate is from %d bytes to %dG a second; nothing at all is off", MinRate, int64(MaxRate)>>30)
	}
	return Amount{bytes: int64(bytes)}, nil
}

// digits reads a number of at most so many digits and of nothing else.
func digits(s string, most int) (int, error) {
	if s == "" || len(s) > most || strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number of at most %d digits", s, most)
	}
	return strconv.Atoi(s)
}

func parseDays(text string) (days [7]bool, err error) {
	for d := range strings.SplitSeq(text, ",") {
		first, last, isSpan := strings.Cut(d, "-")
		from, to := dayOf(first), dayOf(first)
		if isSpan {
			to = dayOf(last)
		}
		if from < 0 || to < 0 {
			return days, fmt.Errorf("%q are no days; want Mon, Mon-Fri or Sat,Sun, and hours behind a slash as /8-18", d)
		}
		for i := from; ; i = (i + 1) % 7 {
			days[weekday(i)] = true
			if i == to {
				break
			}
		}
	}
	return days, nil
}

// dayOf returns the place of a day's name, -1 when it is none.
func dayOf(name string) int {
	return slices.IndexFunc(dayNames[:], func(d string) bool { return strings.ToLower(d) == name })
}

func parseHours(text string) ([]span, error) {
	var out []span
	for h := range strings.SplitSeq(text, ",") {
		first, last, ok := strings.Cut(h, "-")
		from, err1 := parseClock(first)
		to, err2 := parseClock(last)
		if !ok || err1 != nil || err2 != nil || from == to || from == minutesADay {
			return nil, fmt.Errorf("%q are no hours; want 8-18, 8:30-17 or 22-6, each hour from 0 to 24", h)
		}
		out = append(out, span{from, to})
	}
	return out, nil
}

// parseClock reads a time of day, in minutes.
func parseClock(text string) (int, error) {
	hour, minute, both := strings.Cut(text, ":")
	h, err := digits(hour, 2)
	if err != nil {
		return 0, err
	}
	m := 0
	if both {
		if m, err = digits(minute, 2); err != nil || len(minute) != 2 || m > 59 {
			return 0, fmt.Errorf("%q is no time", text)
		}
	}
	if h*60+m > minutesADay {
		return 0, fmt.Errorf("%q is behind the end of the day", text)
	}
	return h*60 + m, nil
}
