package limit_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"disksync/internal/limit"
)

// line is a line that brings so many bytes a second into a buffer on this side, which has room for half a second.
type line struct {
	rate   float64
	at     time.Time
	buffer float64
	total  int64
}

// read takes what is there, at most n bytes, or waits until there is something.
func (l *line) read(n int) int {
	for {
		now := time.Now()
		l.buffer = min(l.buffer+l.rate*now.Sub(l.at).Seconds(), l.rate/2)
		l.at = now
		if l.buffer >= max(1, min(float64(n), l.rate/100)) {
			got := min(n, int(l.buffer))
			l.buffer -= float64(got)
			l.total += int64(got)
			return got
		}
		<-time.After(time.Duration(max(1/l.rate, 0.01) * float64(time.Second)))
	}
}

// over reads from a line for a time and returns the rate at which bytes came over it.
func over(c limit.Chain, l *line, d time.Duration) float64 {
	start, before := time.Now(), l.total
	for time.Since(start) < d {
		c.Take(limit.Down, l.read(c.Piece(limit.Down)), nil)
	}
	return float64(l.total-before) / time.Since(start).Seconds()
}

func near(got, want, share float64) bool { return math.Abs(got-want) <= want*share }

func limiter(t testing.TB, text string) *limit.Limiter {
	t.Helper()
	return limit.New("the limit", parse(t, text))
}

func TestRates(t *testing.T) {
	for _, test := range []struct {
		texts []string
		line  float64
		want  float64
	}{
		{nil, 1e6, 1e6},
		{[]string{""}, 1e6, 1e6},
		{[]string{"unlimited"}, 1e6, 1e6},
		{[]string{"100%"}, 1e6, 1e6},
		{[]string{"100K"}, 1e6, 100 << 10},
		{[]string{"10M"}, 1e8, 10 << 20},
		{[]string{"500"}, 1e6, 500},
		{[]string{"100"}, 1e6, 100},
		{[]string{"10M"}, 1e6, 1e6}, // the line gives less
		{[]string{"100K", "50K"}, 1e6, 50 << 10},
		{[]string{"50K", "100K"}, 1e6, 50 << 10},
		{[]string{"50K", "50K"}, 1e6, 50 << 10},
		{[]string{"60%"}, 1e6, 6e5},
		{[]string{"10%"}, 1e6, 1e5},
		{[]string{"90%"}, 1e5, 9e4},
		{[]string{"50%"}, 1000, 500},
		{[]string{"60%", "100K"}, 1e6, 100 << 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			var c limit.Chain
			for _, text := range test.texts {
				c = append(c, limiter(t, text))
			}
			l := &line{rate: test.line, at: time.Now()}
			if got := over(c, l, 20*time.Minute); !near(got, test.want, 0.06) {
				t.Errorf("%q on a line of %g: %g, want %g", test.texts, test.line, got, test.want)
			}
		})
	}
}

// TestSmallBursts: in no second does much more go by than is said, also after a pause.
func TestSmallBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.Chain{limiter(t, "100K")}
		l := &line{rate: 1e7, at: time.Now()}
		for range 5 {
			if got := over(c, l, time.Second); got > 1.25*100<<10 {
				t.Errorf("%g bytes in a second", got)
			}
			<-time.After(time.Hour)
		}
	})
}

// TestPartFollowsTheLine: when the line gets better or worse, so does the part that is taken.
func TestPartFollowsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.Chain{limiter(t, "50%")}
		l := &line{rate: 1e5, at: time.Now()}
		for _, rate := range []float64{1e5, 1e7, 1e4, 1e6} {
			l.rate = rate
			over(c, l, time.Minute)
			if got := over(c, l, 5*time.Minute); !near(got, rate/2, 0.1) {
				t.Errorf("a line of %g: %g", rate, got)
			}
		}
	})
}

// TestTimesOfDay: a schedule changes what goes by without anybody doing anything.
func TestTimesOfDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A bubble begins on Saturday, 2000-01-01, at midnight UTC.
		if d := time.Now().UTC().Weekday(); d != time.Saturday {
			t.Fatalf("it is %s", d)
		}
		time.Local = time.UTC
		c := limit.Chain{limiter(t, "100K;10K@Sat/0:10-0:20")}
		l := &line{rate: 1e6, at: time.Now()}
		for _, want := range []float64{100 << 10, 10 << 10, 100 << 10} {
			if got := over(c, l, 10*time.Minute); !near(got, want, 0.05) {
				t.Errorf("%g, want %g", got, want)
			}
		}
	})
}

// TestSet: a new limit holds at once, also for who waits.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiter(t, "100")
		c := limit.Chain{l}
		start := time.Now()
		go func() {
			<-time.After(time.Second)
			l.Set(parse(t, "unlimited"))
		}()
		c.Take(limit.Down, 1_000_000, nil)
		c.Take(limit.Down, 1_000_000, nil)
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
		l.Set(parse(t, "100"))
		stop := make(chan struct{})
		close(stop)
		c.Take(limit.Down, 1_000_000, stop)
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestDebt: what nobody waited for is waited for later.
func TestDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := limit.Chain{limiter(t, "1K")}
		start := time.Now()
		c.Note(limit.Down, 8<<10)
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		c.Take(limit.Down, 1<<10, nil)
		if took := time.Since(start); took < 8*time.Second || took > 9*time.Second {
			t.Errorf("it took %v", took)
		}
		c.Take(limit.Up, 10, nil) // the other direction is not in debt
		if took := time.Since(start); took > 9*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestOff: who waits hears why and until when, and goes on when it is time, or when somebody changes it.
func TestOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Local = time.UTC
		a, b := limiter(t, "off@Sat/0-1"), limiter(t, "off")
		c := limit.Chain{limiter(t, ""), a, b}
		var told []string
		tell := func(h limit.Hold) { told = append(told, h.String()) }
		start := time.Now()
		go func() {
			<-time.After(2 * time.Hour)
			b.Set(parse(t, "1M"))
		}()
		if err := c.WaitOpen(t.Context(), tell); err != nil || time.Since(start) != 2*time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if len(told) != 3 || told[0] != "the limit until Sat 01:00" || told[1] != "the limit" || told[2] != "" {
			t.Errorf("%q", told)
		}
		if err := c.WaitOpen(t.Context(), nil); err != nil || time.Since(start) != 2*time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		b.Set(limit.Always(limit.Off))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.WaitOpen(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		c.Take(limit.Down, 1000, nil) // a few words can be said
		if time.Since(start) != 3*time.Hour {
			t.Errorf("after %v", time.Since(start))
		}
	})
}

// TestWhileOpen: what runs ends when nothing is let through any more, and only then.
func TestWhileOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Local = time.UTC
		l := limiter(t, "off@Sat/1-2")
		c := limit.Chain{limiter(t, "1M"), l}
		start := time.Now()
		ctx, done := c.WhileOpen(t.Context())
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), limit.ErrOff) || time.Since(start) != time.Hour {
			t.Errorf("%v after %v", context.Cause(ctx), time.Since(start))
		}
		done()
		l.Set(parse(t, "1M"))
		ctx, done = c.WhileOpen(t.Context())
		<-time.After(24 * 8 * time.Hour)
		if ctx.Err() != nil {
			t.Error(context.Cause(ctx))
		}
		l.Set(parse(t, "off"))
		<-ctx.Done()
		done()
		ctx, done = limit.Chain{}.WhileOpen(t.Context())
		done()
		if !errors.Is(ctx.Err(), context.Canceled) || errors.Is(context.Cause(ctx), limit.ErrOff) {
			t.Error(context.Cause(ctx))
		}
	})
}
