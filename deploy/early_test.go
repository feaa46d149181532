package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/syncclient"
)

// teller is a shop that knows what it was asked for, and can fail.
type teller struct {
	shop

	mu    sync.Mutex
	down  bool // hangs up on everybody
	fails int  // hangs up on so many
	order []asked
}

// asked is a range of a layer.
type asked struct {
	layer    string
	from, to int64 // the last byte
}

func (s *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	hangUp := s.down || s.fails > 0
	s.fails = max(s.fails-1, 0)
	if id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; !hangUp {
		for part := range strings.SplitSeq(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), ",") {
			a := asked{layer: id}
			if _, err := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &a.from, &a.to); err == nil {
				s.order = append(s.order, a)
			}
		}
	}
	s.mu.Unlock()
	if hangUp {
		panic(http.ErrAbortHandler)
	}
	s.shop.ServeHTTP(w, r)
}

func (s *teller) set(down bool, fails int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.fails = down, fails
}

// twice returns how many bytes of frames were asked for more than once.
func (s *teller) twice(layers ...made) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, m := range layers {
		count := make([]uint8, m.IndexOffset())
		for _, a := range s.order {
			if a.layer != m.ID().String() {
				continue
			}
			for at := a.from; at <= min(a.to, m.IndexOffset()-1); at++ {
				if count[at]++; count[at] > 1 {
					n++
				}
			}
		}
	}
	return n
}

// blocks returns the blocks of a layer in the order in which their frames were asked for.
func (s *teller) blocks(m made) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []int
	for _, a := range s.order {
		for i := range m.Len() {
			f := m.Frame(i)
			if a.layer == m.ID().String() && f.Length > 0 && a.from <= f.Offset && f.Offset <= a.to {
				out = append(out, f.Block)
			}
		}
	}
	return out
}

// scene is a version that is being fetched and read at the same time.
type scene struct {
	*testing.T
	store  *deploy.Store
	target version
	server *teller
	net    *deploy.Net
	// options are how the server is reached.
	options syncclient.Options
}

func (s *scene) job(media ...*cache.Inventory) *deploy.Job {
	n := &deploy.Net{Client: s.net.Client, MaxRange: s.net.MaxRange, GiveUp: s.net.GiveUp}
	return &deploy.Job{Store: s.store, Manifest: s.target.signed, Net: n, Media: media, Tally: deploy.NewTally()}
}

func newScene(t *testing.T, s *deploy.Store, target version) *scene {
	server := &teller{shop: shop{layers: map[string]made{}}}
	for _, m := range target.layers {
		server.layers[m.ID().String()] = m
	}
	n, o := openShop(t, server)
	return &scene{T: t, store: s, target: target, server: server, net: n, options: o}
}

// early opens the disk of the version before it is here.
func (s *scene) early(j *deploy.Job) (*deploy.Early, *deploy.EarlyDisk) {
	s.Helper()
	p, err := j.Plan(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	e, err := j.OpenEarly(s.Context(), p)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(e.Close)
	return e, e.Disks[0]
}

// install runs a job to its end.
func (s *scene) install(ctx context.Context, j *deploy.Job) (*deploy.Outcome, error) {
	p, err := j.Plan(ctx)
	if err != nil {
		return nil, err
	}
	return j.Run(ctx, p)
}

// readSome reads at random places and compares.
func readSome(ctx context.Context, r *rand.Rand, d *deploy.EarlyDisk, want []byte, n int) error {
	for range n {
		off := r.IntN(len(want))
		p := make([]byte, 1+r.IntN(min(len(want)-off, 3*block/2)))
		if _, err := d.Reader(ctx).ReadAt(p, int64(off)); err != nil {
			return err
		}
		if !bytes.Equal(p, want[off:off+len(p)]) {
			return fmt.Errorf("other bytes than the disk's between %d and %d", off, off+len(p))
		}
	}
	return nil
}

// randomLine returns versions that change blocks, become larger and smaller, and have blocks alike.
func randomLine(t *testing.T, r *rand.Rand) *line {
	l := newLine("early")
	for range 2 + r.IntN(4) {
		seeds := make([]uint64, 3+r.IntN(6))
		for i := range seeds {
			seeds[i] = r.Uint64N(9)
		}
		if n := len(l.versions); n > 0 {
			had := l.versions[n-1].disk
			for i := range seeds { // most stay
				if (i+1)*block <= len(had) && r.IntN(3) > 0 {
					seeds[i] = 1000
				}
			}
			d := disk(r.IntN(3), seeds...)
			for i, seed := range seeds {
				if seed == 1000 {
					copy(d[i*block:(i+1)*block], had[i*block:])
				}
			}
			if !bytes.Equal(d, had) {
				l.add(t, r.IntN(5) == 0, d)
			}
			continue
		}
		l.add(t, true, disk(r.IntN(3), seeds...))
	}
	return l
}

// TestEarlyReads: whatever is read while a version is being fetched is right, whichever sources fail, vanish, lie and come back, and
// however often the transfer is stopped; and what is installed in the end is what it would have been.
func TestEarlyReads(t *testing.T) {
	var twice, all int64
	for seed := range uint64(30 / scale()) {
		r := rand.New(rand.NewPCG(seed, 23))
		l := randomLine(t, r)
		fsys := newFS()
		store := openStore(t, fsys)
		target := l.versions[len(l.versions)-1]
		if at := r.IntN(len(l.versions)); r.IntN(3) == 0 && at < len(l.versions)-1 {
			v := l.versions[at]
			if err := installAll(t.Context(), store, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); err != nil {
				t.Fatal(err)
			}
		}
		s := newScene(t, store, target)
		s.net.GiveUp = time.Nanosecond
		j := s.job()
		_, d := s.early(j)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var g errgroup.Group
		for i := range 3 {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			g.Go(func() error { return readSome(ctx, r, d, target.disk, 8) })
		}
		g.Go(func() error { return s.disturb(ctx, rand.New(rand.NewPCG(seed, 99)), j) })
		if err := g.Wait(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		s.server.set(false, 0)
		if _, err := s.install(ctx, s.job()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := readSome(ctx, r, d, target.disk, 3); err != nil {
			t.Fatalf("seed %d, when it was here: %v", seed, err)
		}
		cancel()
		if err := sameContent(fsys, image.VHDUUID(target.state.ID()), target.disk); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := order(fsys); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		twice += s.server.twice(target.layers...)
		for _, m := range target.layers {
			all += m.IndexOffset()
		}
	}
	t.Logf("%d of %d bytes were asked for twice", twice, all)
	// What is on its way when a transfer is stopped, or when another source was faster, is lost: more on a machine that is busy.
	if twice > all/4 {
		t.Error("that is not by chance")
	}
}

// disturb installs the version, and sees to it that it does not come to its end at once; media come and go.
func (s *scene) disturb(ctx context.Context, r *rand.Rand, early *deploy.Job) error {
	for range r.IntN(4) {
		run, stop := context.WithCancel(ctx)
		j := s.job()
		var plug *cache.Inventory
		if r.IntN(2) == 0 {
			file := bytes.Clone(s.target.layers[r.IntN(len(s.target.layers))].file)
			for range r.IntN(3) {
				file[16+r.IntN(len(file)-16-64)] ^= 1
			}
			plug = medium(s.T, cache.USB, file)
			if r.IntN(2) == 0 {
				early.Plug(plug)
			} else {
				j.Media = []*cache.Inventory{plug}
			}
		}
		s.server.set(false, r.IntN(3))
		done := make(chan error, 1)
		go func() {
			_, err := s.install(run, j)
			done <- err
		}()
		timer := time.NewTimer(time.Duration(r.IntN(60)) * time.Millisecond)
		select {
		case <-timer.C:
		case <-done:
			done <- nil
		}
		if r.IntN(2) == 0 {
			s.server.set(r.IntN(2) == 0, 0)
		}
		if plug != nil && !slices.Contains(j.Media, plug) {
			early.Unplug(plug, errors.New("pulled out"))
		}
		stop()
		<-done
	}
	s.server.set(false, 0)
	return nil
}

// TestEarlyDifferences: frames that refer to blocks of the disk before, and to others of their own layer, are unpacked when these are
// here, without the rest of the disk.
func TestEarlyDifferences(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	l := newLine("early-differences")
	d := make([]byte, 8*block+512*3)
	noise(d[:7*block], 1)
	l.add(t, true, d)
	last := l.version(1)
	for range 3 {
		d = shuffled(r, d)
		next := version{disk: d, state: stateOf(d), layers: slices.Clone(last.layers)}
		next.layers = append(next.layers, refer(t, last, next))
		last = next
	}
	last.signed = l.sign(t, manifestOf(last))
	fsys := newFS()
	s := newScene(t, openStore(t, fsys), last)
	_, early := s.early(s.job())
	at := r.IntN(8)
	p := make([]byte, 4096)
	if _, err := early.Reader(t.Context()).ReadAt(p, int64(at)*block); err != nil || !bytes.Equal(p, d[at*block:][:4096]) {
		t.Fatalf("block %d: %v", at, err)
	}
	some := 0
	for _, m := range last.layers {
		some += len(s.server.blocks(m))
	}
	if some == 0 || some > 20 {
		t.Errorf("%d frames were fetched for one block", some)
	}
	var g errgroup.Group
	g.Go(func() error { return readSome(t.Context(), r, early, d, 20) })
	g.Go(func() error { _, err := s.install(t.Context(), s.job()); return err })
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := sameContent(fsys, image.VHDUUID(last.state.ID()), d); err != nil {
		t.Error(err)
	}
	if n := s.server.twice(last.layers...); n > 3*block {
		t.Errorf("%d bytes were asked for twice", n)
	}
}

func manifestOf(v version) image.Manifest {
	return image.Manifest{Version: max(v.number, 1), Disks: []image.Disk{diskOf(image.System, v)}}
}

// TestEarlyFirst: what is read comes before what is merely to be installed, and what a VM reads when it starts before the rest, in its
// order; nothing comes twice.
func TestEarlyFirst(t *testing.T) {
	seeds := make([]uint64, 24)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	l := newLine("first").add(t, true, disk(0, seeds...))
	v := l.version(1)
	mf := manifestOf(v)
	mf.Disks[0].Boot = []int{17, 3, 20, 5}
	v.signed = l.sign(t, mf)
	t.Run("boot set", func(t *testing.T) {
		s := newScene(t, openStore(t, newFS()), v)
		if _, err := s.install(t.Context(), s.job()); err != nil {
			t.Fatal(err)
		}
		got := s.server.blocks(v.layers[0])
		first := slices.Sorted(slices.Values(got[:4]))
		if !slices.Equal(first, []int{3, 5, 17, 20}) || len(got) != 24 || !slices.IsSorted(got[4:]) {
			t.Errorf("the blocks came in the order %v", got)
		}
		if n := s.server.twice(v.layers[0]); n != 0 {
			t.Errorf("%d bytes came twice", n)
		}
	})
	t.Run("demand", func(t *testing.T) {
		s := newScene(t, openStore(t, newFS()), v)
		_, d := s.early(s.job())
		p := make([]byte, 512)
		for _, at := range []int64{22, 9} {
			if _, err := d.Reader(t.Context()).ReadAt(p, at*block); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.install(t.Context(), s.job()); err != nil {
			t.Fatal(err)
		}
		got := s.server.blocks(v.layers[0])
		if !slices.Equal(got[:2], []int{22, 9}) || len(got) != 24 {
			t.Errorf("the blocks came in the order %v", got)
		}
	})
}

// TestEarlyWaits: with no source a read waits and says so, never gives anything else, and goes on when there is one, whichever it is.
func TestEarlyWaits(t *testing.T) {
	l := newLine("waits").add(t, true, disk(0, 1, 2, 3, 4))
	v := l.version(1)
	for _, c := range []struct {
		name string
		help func(s *scene, j *deploy.Job)
	}{
		{"the line is back", func(s *scene, _ *deploy.Job) { s.server.set(false, 0) }},
		{"a medium is put in", func(s *scene, j *deploy.Job) { j.Plug(medium(s.T, cache.USB, v.layers[0].file)) }},
		{"an installation brings it", func(s *scene, _ *deploy.Job) {
			j := s.job(medium(s.T, cache.USB, v.layers[0].file))
			if _, err := s.install(s.Context(), j); err != nil {
				s.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, openStore(t, newFS()), v)
			s.net.GiveUp = time.Nanosecond
			j := s.job()
			_, d := s.early(j)
			s.server.set(true, 0)
			p := make([]byte, 4096)
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			defer cancel()
			if _, err := d.Reader(ctx).ReadAt(p, 2*block); !errors.Is(err, context.DeadlineExceeded) || !bytes.Equal(p, make([]byte, 4096)) {
				t.Errorf("without a source it gives %v", err)
			}
			if waits := j.Tally.Progress().Waits; !strings.Contains(waits, "block 2 of the system disk") {
				t.Errorf("it says %q", waits)
			}
			got := make(chan error, 1)
			go func() {
				_, err := d.Reader(t.Context()).ReadAt(p, 2*block)
				got <- err
			}()
			c.help(s, j)
			if err := <-got; err != nil || !bytes.Equal(p, v.disk[2*block:][:4096]) {
				t.Errorf("afterwards: %v", err)
			}
			if waits := j.Tally.Progress().Waits; waits != "" {
				t.Errorf("it still says %q", waits)
			}
		})
	}
}

// TestEarlyDetour: a layer whose blocks cannot be had after all is gone around, and who reads goes along.
func TestEarlyDetour(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2, 3)
	h.version(false, 4, 2, 3)
	h.version(false, 5, 2, 3)
	h.bring("vm", 1)
	target := h.l.version(3)
	s := newScene(t, h.s, target)
	direct, _ := encode(t, h.l.version(1).state, target.disk)
	file := bytes.Clone(direct.file)
	file[5000+5*2048] ^= 1
	_, d := s.early(s.job(medium(t, cache.USB, file)))
	p := make([]byte, block)
	read := make(chan error, 1)
	go func() {
		_, err := d.Reader(t.Context()).ReadAt(p, 0)
		read <- err
	}()
	out, err := s.install(t.Context(), s.job(medium(t, cache.USB, file)))
	if err != nil || out.Detours != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := <-read; err != nil || !bytes.Equal(p, target.disk[:block]) {
		t.Errorf("the block on the layer that was left: %v", err)
	}
}
