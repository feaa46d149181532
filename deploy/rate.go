package deploy

import (
	"context"
	"slices"
	"sync"
	"time"

	"disksync/image"
	"disksync/layer"
)

// ReadBack is the key of a rate: how fast what was installed is read back and compared.
const ReadBack = "read back"

const (
	// longPause is the longest time between two blocks that counts: a line that was interrupted for a night is no slow one.
	longPause = 10 * time.Second
	// A rate means something when so many bytes took so long.
	enoughBytes = 256 << 10
	enoughTime  = 20 * time.Millisecond
	// trifle is how many bytes of a source need no rate for an estimate.
	trifle = 256 << 10
)

// speed is what some kind of work took.
type speed struct {
	bytes int64
	time  time.Duration
}

func (t *Tally) took(kind string, bytes int64, d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tookLocked(kind, bytes, d)
}

func (t *Tally) tookLocked(kind string, bytes int64, d time.Duration) {
	s := t.speed[kind]
	t.speed[kind] = speed{s.bytes + bytes, s.time + d}
}

// endStage takes the time of the stage that ends: that of reading back is the time of nothing else. The caller holds mu.
func (t *Tally) endStage() {
	now := time.Now()
	if t.p.Stage == StageChecksum {
		t.tookLocked(ReadBack, t.p.Done, now.Sub(t.stageBegan))
	}
	t.stageBegan = now
}

// rates returns the bytes a second of each kind of work of which there was enough.
func (t *Tally) rates() map[string]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endStage()
	out := map[string]float64{}
	for kind, s := range t.speed {
		if s.bytes >= enoughBytes && s.time >= enoughTime {
			out[kind] = float64(s.bytes) / s.time.Seconds()
		}
	}
	return out
}

// timed returns the sources so that the Tally learns how fast they are.
func (t *Tally) timed(sources []Source) []Source {
	out := make([]Source, len(sources))
	for i, s := range sources {
		out[i] = timed{s, t}
	}
	return out
}

// timed is a Source whose time is taken.
type timed struct {
	Source
	t *Tally
}

// Fetch implements Source.
func (s timed) Fetch(ctx context.Context, blocks []image.Digest, deliver func(image.Digest, layer.Frame, []byte, error) error) error {
	var mu sync.Mutex
	last := time.Now()
	return s.Source.Fetch(ctx, blocks, func(d image.Digest, f layer.Frame, packed []byte, err error) error {
		mu.Lock()
		now := time.Now()
		s.t.took(s.Kind(), int64(len(packed)), min(now.Sub(last), longPause))
		last = now
		mu.Unlock()
		return deliver(d, f, packed, err)
	})
}

// estimate says how long it takes about to get so many bytes from each kind of source, and to read back what is left to read when
// they have come. Sources give at the same time, so the slowest one counts. Where it would be a guess, it says which rates are not
// known.
func (j *Job) estimate(bytes map[string]int64, behind int64) (seconds float64, unknown []string) {
	for _, kind := range Kinds() {
		n := bytes[kind]
		rate := j.Rates[kind]
		switch {
		case rate > 0:
			seconds = max(seconds, float64(n)/rate)
		case n > trifle:
			unknown = append(unknown, kind)
		}
	}
	if rate := j.Rates[ReadBack]; rate > 0 {
		seconds += float64(behind) / rate
	} else if behind > 0 && slices.Max([]int64{bytes[Local], bytes[USB], bytes[DVD]}) > trifle {
		unknown = append(unknown, ReadBack)
	}
	if len(unknown) > 0 {
		return 0, unknown
	}
	return seconds, nil
}
