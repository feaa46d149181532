// Package hotplug knows which removable media are in the machine, has those mounted that somebody wants to read, and tells when they
// come and go. It asks UDisks2, and where there is none it goes by the kernel's lists and events; then nothing is mounted.
//
// What it had mounted it unmounts when nobody reads from it any more, also after a crash, and nothing else.
package hotplug

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"disksync/cache"
	"disksync/internal/durable"
	"disksync/internal/udisks"
)

// DefaultGrace is how long a medium that was just put in is left to others who may want to mount it: a desktop does that for its user.
const DefaultGrace = 3 * time.Second

const (
	// busyAgain is how long to wait before what was in use is unmounted.
	busyAgain = 2 * time.Second
	// lastWord bounds what is done at the end.
	lastWord = 20 * time.Second
)

// Options configures a Watcher.
type Options struct {
	Finder cache.Finder        // of the kernel's lists
	Getenv func(string) string // os.Getenv or what stands for it
	Log    *slog.Logger        // nil: nothing is logged
	FS     durable.FS          // the state folder; nil: what is mounted is remembered by this process only
	Grace  time.Duration       // see DefaultGrace
}

// Watcher looks for media. It is safe for concurrent use.
type Watcher struct {
	o        Options
	kick     chan struct{} // has room for one: something may have changed
	quit     chan struct{}
	done     chan struct{} // closed when run has ended; nil: it has not begun
	udisks   *udisks.Client
	kernel   *kernel
	record   record               // of run alone
	since    map[string]time.Time // of media that nobody has mounted, by their IDs: when they were first seen
	refused  map[string]string    // why they are not mounted, by their IDs
	others   map[string]bool      // media that others have mounted, by their IDs
	undone   map[string]undone    // what was unmounted last, by devices
	numbered map[string]bool      // devices of UDisks2: the kernel had a number for what is in their drive
	again    time.Duration        // when to look again without being told; 0: never

	mu    sync.Mutex
	users map[int]func(cache.Kind) bool
	next  int
	subs  map[int]func()
	media []cache.Medium
	notes []string
	err   error
	begun int           // looks that have begun
	ended int           // looks that have ended
	wait  bool          // others still have time to mount something that is wanted
	round chan struct{} // closed at the end of each look
}

// New returns a Watcher that begins to watch when it is first used, or at once when an earlier run left something mounted. It is to be
// closed.
func New(o Options) *Watcher {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		o: o, kick: make(chan struct{}, 1), quit: make(chan struct{}), record: record{fsys: o.FS}, users: map[int]func(cache.Kind) bool{},
		subs: map[int]func(){}, since: map[string]time.Time{}, refused: map[string]string{}, others: map[string]bool{}, undone: map[string]undone{},
		numbered: map[string]bool{}, round: make(chan struct{}),
	}
	if err := w.record.load(); err != nil {
		o.Log.Warn(err.Error())
	}
	if len(w.record.all) > 0 {
		w.start()
	}
	return w
}

// start begins to watch.
func (w *Watcher) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done != nil {
		return
	}
	w.done = make(chan struct{})
	go w.run(w.done)
}

// Recheck looks again: what may be used has changed.
func (w *Watcher) Recheck() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// Use keeps media mounted of the kinds that allowed says, which may change its mind, until done is called. It returns when those that
// are in were looked at, which takes as long as others are given to mount what was just put in, or ctx ends.
func (w *Watcher) Use(ctx context.Context, allowed func(cache.Kind) bool) (done func()) {
	w.mu.Lock()
	id := w.next
	w.next++
	w.users[id] = allowed
	mine := w.begun + 1 // a look that has begun may have missed this
	w.mu.Unlock()
	w.start()
	w.Recheck()
	w.await(ctx, mine)
	return sync.OnceFunc(func() {
		w.mu.Lock()
		delete(w.users, id)
		w.mu.Unlock()
		w.Recheck()
	})
}

func (w *Watcher) await(ctx context.Context, n int) {
	for {
		w.mu.Lock()
		ended, wait, round := w.ended, w.wait, w.round
		w.mu.Unlock()
		if ended >= n && !wait {
			return
		}
		select {
		case <-round:
		case <-w.quit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Media returns the media that can be read, and in words why others cannot. Only what a user of the Watcher may use is mounted.
func (w *Watcher) Media() ([]cache.Medium, []string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.media), slices.Clone(w.notes), w.err
}

// Watch calls tell after each change of Media, until end is called. tell must return at once.
func (w *Watcher) Watch(tell func()) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.next
	w.next++
	w.subs[id] = tell
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, id)
	}
}

// Close unmounts what was mounted and ends.
func (w *Watcher) Close() {
	close(w.quit)
	w.mu.Lock()
	done := w.done
	w.mu.Unlock()
	if done != nil {
		<-done
	}
}

// run is the life of a Watcher that is used.
func (w *Watcher) run(done chan struct{}) {
	defer close(done)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var wait func()
	w.udisks, wait = udisks.Watch(ctx, w.o.Getenv, w.o.Log, w.Recheck)
	defer func() { stop(); wait() }()
	var err error
	if w.kernel, err = watchKernel(w.o.proc(), w.Recheck); err != nil {
		w.o.Log.Warn("media that come and go will not be noticed without UDisks2", "error", err)
	} else {
		defer w.kernel.close()
	}
	for first := true; ; first = false {
		w.look(ctx, first)
		if !w.pause() {
			break
		}
	}
	last, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	w.mu.Lock()
	clear(w.users)
	w.mu.Unlock()
	w.look(last, false)
}

func (o *Options) proc() string {
	if o.Finder.Proc == "" {
		return "/proc"
	}
	return o.Finder.Proc
}

// pause waits for a change, and reports whether to go on.
func (w *Watcher) pause() bool {
	var late <-chan time.Time
	if w.again > 0 {
		t := time.NewTimer(w.again)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-w.quit:
		return false
	case <-w.kick:
	case <-late:
	}
	return true
}

// wanted reports whether somebody may use media of a kind.
func (w *Watcher) wanted(k cache.Kind) bool {
	w.mu.Lock()
	users := slices.Collect(maps.Values(w.users))
	w.mu.Unlock()
	return slices.ContainsFunc(users, func(allowed func(cache.Kind) bool) bool { return allowed(k) })
}

// look finds out what there is, mounts and unmounts, and tells of what has changed.
func (w *Watcher) look(ctx context.Context, first bool) {
	w.mu.Lock()
	w.begun++
	used := len(w.users) > 0
	w.mu.Unlock()
	w.again = 0
	s := &sight{w: w, ctx: ctx, first: first, used: used, now: time.Now(), there: map[string]bool{}}
	var err error
	if volumes, ok := w.udisks.Volumes(); ok {
		s.volumes(volumes)
	} else {
		err = s.kernel()
	}
	maps.DeleteFunc(w.since, func(id string, _ time.Time) bool { return !s.there[id] })
	maps.DeleteFunc(w.others, func(id string, _ bool) bool { return !s.there[id] })
	maps.DeleteFunc(w.refused, func(id string, _ string) bool { return !s.there[id] })

	w.mu.Lock()
	changed := !slices.Equal(w.media, s.media) || !slices.Equal(w.notes, s.notes)
	w.media, w.notes, w.err = s.media, s.notes, err
	w.ended, w.wait = w.begun, s.waiting
	close(w.round)
	w.round = make(chan struct{})
	var subs []func()
	if changed {
		subs = slices.Collect(maps.Values(w.subs))
	}
	w.mu.Unlock()
	for _, tell := range subs {
		tell()
	}
}

// after sees to it that there is another look, at the latest so much later.
func (w *Watcher) after(d time.Duration) {
	if w.again == 0 || d < w.again {
		w.again = max(d, time.Millisecond)
	}
}
