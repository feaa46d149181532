package limit

import "time"

// Direction is that of bytes on a line.
type Direction int

// The directions.
const (
	Down Direction = iota
	Up
)

const (
	// credit is how much of a pause is made up for later. It is short, so that a poor line is not flooded after one.
	credit = 100 * time.Millisecond
	// restAfter is a pause after which nothing that was measured counts any more.
	restAfter = 10 * time.Second
	// A part of what the line gives can only be taken by who knows what it gives. So now and then it has the line to itself: for
	// rampTime until the line is at its speed, and for lookTime to see what that is. looking takes 1 in lookShare of what may be
	// taken, and so comes the more often the more that is.
	rampTime  = time.Second
	lookTime  = time.Second
	lookShare = 4
	// leastSeen is what must have gone by before it says something of the line: a few words do not.
	leastSeen = 16 << 10
)

// lane is one direction of a line under one limit.
type lane struct {
	amount Amount
	free   time.Time // when what was taken so far is paid for
	last   time.Time // when something was taken last

	// For a part of the line: it is looked at from the first time to the second, and a part is taken until the third.
	look, settle, again time.Time
	taken, seen         int64         // bytes since it has the line to itself, and while it was looked at
	held                time.Duration // by other limits, while it was looked at
	rate                float64       // what may be taken now, bytes a second; 0: all
}

// take notes that n bytes were taken and returns how long to wait before the next ones are.
func (l *lane) take(a Amount, n int, now time.Time) time.Duration {
	if a != l.amount || now.Sub(l.last) > restAfter+l.free.Sub(l.last) {
		*l = lane{amount: a}
	}
	l.last = now
	rate := float64(a.bytes)
	if a.percent > 0 {
		rate = l.part(float64(a.percent)/100, n, now)
	}
	if rate == 0 || a.Unlimited() || a.off {
		l.free = now
		return 0
	}
	if start := now.Add(-credit); l.free.Before(start) {
		l.free = start
	}
	l.free = l.free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return max(l.free.Sub(now), 0)
}

// part returns the rate at which a part of the line may be taken; 0: all of it, for a while.
func (l *lane) part(p float64, n int, now time.Time) float64 {
	if l.look.IsZero() || !now.Before(l.again) && l.rate > 0 {
		l.look, l.taken, l.seen, l.held, l.rate = now.Add(rampTime), int64(n), 0, 0, 0
		l.settle = l.look.Add(lookTime)
		return 0
	}
	if l.rate > 0 {
		return l.rate
	}
	l.taken += int64(n)
	if now.Before(l.look) {
		return 0
	}
	l.seen += int64(n)
	if now.Before(l.settle) || l.seen < leastSeen {
		return 0
	}
	// Where another limit holds things up, the line gives more than can be seen; then it is that one that counts.
	given := float64(l.seen) / max(now.Sub(l.look)-l.held, time.Millisecond).Seconds()
	took := now.Sub(l.look.Add(-rampTime)).Seconds()
	// The line is looked at again after a round of which this was one lookShare; what may still be taken until then is spread over it.
	round := took * lookShare / p
	l.rate = max((given*p*round-float64(l.taken))/(round-took), 1)
	l.again = now.Add(time.Duration((round - took) * float64(time.Second)))
	return l.rate
}

// others notes that other limits waited for so long.
func (l *lane) others(d time.Duration, now time.Time) {
	if l.rate == 0 && !now.Before(l.look) {
		l.held += d
	}
}

// present returns the rate that is in force for an amount; 0: all of the line.
func (l *lane) present(a Amount) float64 {
	if a.percent > 0 && a == l.amount && !a.Unlimited() {
		return l.rate
	}
	return float64(a.bytes)
}
