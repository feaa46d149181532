package deploy_test

import (
	"bytes"
	"context"
	"net/url"
	"slices"
	"testing"
	"time"

	"disksync/deploy"
	"disksync/internal/netchaos"
	"disksync/syncclient"
)

// TestEarlyOnSlowLine: on a slow line with long round trips, that is busy with an installation, a block that is read is here within a
// small multiple of what it takes by itself; also the first one, when megabytes were asked for before anybody read.
func TestEarlyOnSlowLine(t *testing.T) {
	const (
		rate = 4 << 20 // bytes a second
		trip = 40 * time.Millisecond
	)
	seeds := make([]uint64, 12)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	l := newLine("slow").add(t, true, disk(0, seeds...))
	v := l.version(1)
	s := newScene(t, openStore(t, newFS()), v)
	u := s.line(t, netchaos.Toxics{Up: netchaos.Toxic{Delay: trip / 2}, Down: netchaos.Toxic{Delay: trip / 2, Rate: rate}})
	run, early := s.job(), s.job()
	run.Net, early.Net = u(), u()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	p, err := run.Plan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := run.Run(ctx, p)
		done <- err
	}()
	for run.Tally.Progress().Bytes[deploy.Network] == 0 { // it is under way
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	alone := time.Duration(float64(block)/rate*float64(time.Second)) + 2*trip
	_, d := s.early(early)
	var took []time.Duration
	b := make([]byte, 4096)
	for _, at := range []int64{11, 9, 10} {
		start := time.Now()
		if _, err := d.Reader(ctx).ReadAt(b, at*block); err != nil || !bytes.Equal(b, v.disk[at*block:][:4096]) {
			t.Fatal(err)
		}
		took = append(took, time.Since(start).Round(time.Millisecond))
	}
	t.Logf("a block takes %v by itself; with an installation on the line %v; they came in the order %v", alone.Round(time.Millisecond), took, s.server.blocks(v.layers[0]))
	if slices.Max(took[1:]) > 2*alone || took[0] > 3*alone {
		t.Error("who reads waits for who installs")
	}
	left := time.Now()
	had := run.Net.Client.Bytes()
	if err := <-done; err != nil {
		t.Error(err)
	}
	full := float64(run.Net.Client.Bytes()-had) / time.Since(left).Seconds() / rate
	wire := run.Net.Client.Bytes() + early.Net.Client.Bytes()
	t.Logf("the rest took %.0f%% of the line; %d bytes went over it for %d", 100*full, wire, v.layers[0].FileSize())
	if full < 0.7 {
		t.Error("who installs does not use the line")
	}
	if wire > v.layers[0].FileSize()*5/4+1<<20 {
		t.Error("too much went over the line twice")
	}
}

// line returns what makes Nets over lines of that kind to the scene's server: one line for all.
func (s *scene) line(t *testing.T, x netchaos.Toxics) func() *deploy.Net {
	o := s.options
	u, err := url.Parse(o.URL.String())
	if err != nil {
		t.Fatal(err)
	}
	line := netchaos.Start(t, u.Host)
	line.Set(x)
	u.Host = line.Addr()
	o.URL, o.Line = u, syncclient.Line{LowSpeedTime: time.Hour}
	return func() *deploy.Net {
		c, err := syncclient.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return &deploy.Net{Client: c, MaxRange: 64 << 20}
	}
}
