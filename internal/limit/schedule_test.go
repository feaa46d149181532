package limit_test

import (
	"reflect"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // a machine may have no time zones

	"disksync/internal/limit"
)

func parse(t testing.TB, text string) limit.Schedule {
	t.Helper()
	s, err := limit.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// at returns a time of a week that begins on Monday, 2026-03-02, as "Tue 8:30".
func at(t testing.TB, text string) time.Time {
	t.Helper()
	day, clock, _ := strings.Cut(text, " ")
	c, err := time.Parse("15:04", clock)
	days := map[string]int{"Mon": 2, "Tue": 3, "Wed": 4, "Thu": 5, "Fri": 6, "Sat": 7, "Sun": 8}
	if err != nil || days[day] == 0 {
		t.Fatalf("%q is no time", text)
	}
	return time.Date(2026, 3, days[day], c.Hour(), c.Minute(), 59, 0, time.UTC)
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"  ":                      "",
		"unlimited":               "unlimited",
		"Off":                     "off",
		"0":                       "off",
		"60%":                     "60%",
		"100%":                    "100%",
		"100":                     "100",
		"1023":                    "1023",
		"1024":                    "1K",
		"500k":                    "500K",
		"1.5M":                    "1536K",
		"0.1K":                    "102",
		"2G":                      "2G",
		"1024G":                   "1024G",
		"1.000001M":               "1048577",
		"60%;10M@Mon-Fri/8-18":    "60%;10M@Mon-Fri/8-18",
		"60% ; 10m@MON-fri/08-18": "60%;10M@Mon-Fri/8-18",
		"off@Sat,Sun":             "off@Sat-Sun",
		"off@Sat-Mon":             "off@Mon,Sat-Sun",
		"off@Mon-Sun":             "off@Mon-Sun",
		"off@Fri-Thu":             "off@Mon-Sun",
		"1M@22-6":                 "1M@22-6",
		"1M@Mon-Sun/22-6":         "1M@22-6",
		"1M@8:30-17:05,18-24":     "1M@8:30-17:05,18-24",
		"1M@Wed/0-24":             "1M@Wed/0-24",
		"1M@Mon,Wed,Fri/0:30-0":   "1M@Mon,Wed,Fri/0:30-0",
	} {
		s, err := limit.Parse(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v, want %q", text, s, err, want)
		}
		if again := parse(t, s.String()); !reflect.DeepEqual(again, s) {
			t.Errorf("%q: read again it is another: %q", text, again)
		}
	}
	for _, text := range []string{
		";", "60%;", "x", "10", "99", "-5", "+500", "1e6", "1.5", ".5M", "1.M", "1.5.5M", "1,5M", "10MB", "10M/s", "10 M", "2000G", "99999999999999G",
		"0%", "101%", "1.5%", "%", "60 %", "@Mon", "1M@", "1M@/", "1M@Mon/", "1M@/8-18", "1M@Montag", "1M@Mon-", "1M@-Fri", "1M@Mon,,Tue", "1M@8-18/Mon",
		"1M@8", "1M@8-", "1M@8-8", "1M@24-6", "1M@8-25", "1M@8-24:01", "1M@8:60-9", "1M@8:5-9", "1M@8.30-9", "1M@ 8-18", "1M@Mon 8-18", "1M@Mon/8-18/9",
		"1M@Mon@Tue", "unlimited%", "off%", "00", "1M\n", "1М", strings.Repeat("1", 2000), strings.Repeat("off;", 60) + "off",
	} {
		if s, err := limit.Parse(text); err == nil {
			t.Errorf("%.40q was read as %q", text, s)
		}
	}
}

func TestAt(t *testing.T) {
	for text, times := range map[string]map[string]string{
		"":                     {"Mon 0:00": "unlimited"},
		"1M@Mon/8-9":           {"Mon 7:59": "unlimited", "Mon 8:00": "1M", "Mon 8:59": "1M", "Mon 9:00": "unlimited", "Tue 8:00": "unlimited"},
		"60%;10M@Mon-Fri/8-18": {"Mon 8:00": "10M", "Fri 17:59": "10M", "Fri 18:00": "60%", "Sat 12:00": "60%", "Sun 12:00": "60%"},
		"10M@Mon-Fri/8-18;60%": {"Mon 8:00": "60%"}, // the last one counts
		"off@Fri/22-6":         {"Fri 5:00": "unlimited", "Fri 21:59": "unlimited", "Fri 22:00": "off", "Sat 5:59": "off", "Sat 6:00": "unlimited", "Sat 23:00": "unlimited"},
		"off@Sun/22-6":         {"Mon 5:00": "off", "Sun 5:00": "unlimited", "Sun 22:00": "off"},
		"off@Sat-Mon":          {"Fri 23:59": "unlimited", "Sat 0:00": "off", "Sun 0:00": "off", "Mon 23:59": "off", "Tue 0:00": "unlimited"},
		"off@Sat-Mon/20-4":     {"Sat 3:00": "unlimited", "Sat 20:00": "off", "Tue 3:59": "off", "Tue 20:00": "unlimited"},
		"off@8:30-12,13-17:15": {"Wed 8:29": "unlimited", "Wed 8:30": "off", "Wed 12:00": "unlimited", "Wed 13:00": "off", "Wed 17:14": "off", "Wed 17:15": "unlimited"},
		"off;unlimited@0-24":   {"Mon 0:00": "unlimited", "Sun 23:59": "unlimited"},
		"off@22-0":             {"Mon 23:59": "off", "Tue 0:00": "unlimited"},
		"off@Mon,Wed/23-24":    {"Mon 23:30": "off", "Tue 0:00": "unlimited", "Tue 23:30": "unlimited", "Wed 23:30": "off"},
	} {
		s := parse(t, text)
		for when, want := range times {
			if got := s.At(at(t, when)).String(); got != want {
				t.Errorf("%q at %s: %s, want %s", text, when, got, want)
			}
		}
	}
}

func TestNext(t *testing.T) {
	for _, test := range []struct{ text, from, want string }{
		{"1M@Mon/8-9", "Mon 7:00", "Mon 8:00"},
		{"1M@Mon/8-9", "Mon 8:30", "Mon 9:00"},
		{"off@Sat-Sun;1M@20-24", "Sat 12:00", "Sat 20:00"},
		{"off@Mon-Fri;off@Sat", "Tue 12:00", "Sun 0:00"},
	} {
		got := parse(t, test.text).Next(at(t, test.from))
		if want := at(t, test.want).Truncate(time.Minute); !got.Equal(want) {
			t.Errorf("%q from %s: %s, want %s", test.text, test.from, got, want)
		}
	}
	for _, text := range []string{"", "1M", "off@Mon-Sun", "60%;60%@Mon/8-9"} {
		if got := parse(t, text).Next(at(t, "Mon 7:00")); !got.IsZero() {
			t.Errorf("%q changes at %s", text, got)
		}
	}
	// A week later, and when the clocks are set: half past two comes twice on this Sunday.
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	s := parse(t, "off@Sun/2:30-3")
	start := time.Date(2026, 10, 25, 0, 0, 0, 0, berlin)
	var changes []string
	for when := s.Next(start); when.Before(start.Add(24 * time.Hour)); when = s.Next(when) {
		changes = append(changes, when.Format("15:04 MST ")+s.At(when).String())
	}
	if got := strings.Join(changes, ", "); got != "02:30 CEST off, 02:00 CET unlimited, 02:30 CET off, 03:00 CET unlimited" {
		t.Error(got)
	}
	if next := s.Next(start.Add(24 * time.Hour)); next.Sub(start) < 7*24*time.Hour {
		t.Errorf("%s", next)
	}
}

// FuzzParse: what is read is written in one way, which reads to the same and says the same at every time.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"60%;10M@Mon-Fri/8-18", "off@Sat-Mon/22:30-6,12-13", "1.5G@8-18;0;unlimited"} {
		f.Add(text)
	}
	week := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := limit.Parse(text)
		if err != nil {
			return
		}
		again, err := limit.Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is written as %q and read as %q, %v", text, s, again, err)
		}
		for m := time.Duration(0); m < 7*24*60; m += 29 {
			when := week.Add(m * time.Minute)
			a := s.At(when)
			if a != again.At(when) {
				t.Fatalf("%q and %q differ at %s", text, s, when)
			}
			if next := s.Next(when); m == 0 && !next.IsZero() && (s.At(next) == a || s.At(next.Add(-time.Minute)) != a) {
				t.Fatalf("%q does not change at %s", s, next)
			}
		}
	})
}
