package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"disksync/cache"
	"disksync/config"
	"disksync/internal/problem"
)

// Hotplug knows the media of the machine, has them mounted, and tells when they come and go. hotplug.Watcher is one.
type Hotplug interface {
	// Use keeps media mounted of the kinds that allowed says, which may change its mind, until done is called. It returns when those
	// that are in were looked at, or ctx ends.
	Use(ctx context.Context, allowed func(cache.Kind) bool) (done func())
	// Media returns the media that are in, and in words why some cannot be read.
	Media() ([]cache.Medium, []string, error)
	// Watch calls tell after each change of Media until end is called.
	Watch(tell func()) (end func())
	// Recheck says that allowed has changed its mind.
	Recheck()
	Close()
}

// still is a Hotplug that knows what is mounted when it is asked.
type still struct{ cache.Finder }

func (still) Use(context.Context, func(cache.Kind) bool) func() { return func() {} }

func (s still) Media() ([]cache.Medium, []string, error) {
	media, err := s.Find()
	return media, nil, err
}

func (still) Watch(func()) func() { return func() {} }
func (still) Recheck()            {}
func (still) Close()              {}

// allowed reports whether the settings allow a kind of medium.
func (e *Engine) allowed(k cache.Kind) bool { return e.Settings().Bool(setting(k)) }

// setting returns the name of the setting that allows a kind of medium.
func setting(k cache.Kind) string {
	if k == cache.DVD {
		return config.EnableDVDCache
	}
	return config.EnableUSBCache
}

// list returns the folders that somebody named, then what is in the machine, each once.
func (e *Engine) list(named []string) (media []cache.Medium, notes []string, err error) {
	var all []cache.Medium
	for _, s := range named {
		m, err := e.namedMedium(s)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, m)
	}
	found, notes, err := e.hotplug.Media()
	if err != nil {
		// Without a list of mounts there are the named ones still.
		notes = append(notes, err.Error())
	}
	all = append(all, found...)
	seen := map[string]bool{}
	for _, m := range all {
		if !seen[m.Place()] {
			seen[m.Place()] = true
			media = append(media, m)
		}
	}
	return media, notes, nil
}

// media returns the media to look at: each only as far as the settings allow its kind. A folder that is named counts as a USB medium
// unless it is on a disc, or "dvd:" stands before it: what IT has turned off stays off, whoever asks.
func (e *Engine) media(named []string) (use []cache.Medium, notes []string, err error) {
	all, notes, err := e.list(named)
	for _, m := range all {
		if !e.allowed(m.Kind) {
			notes = append(notes, fmt.Sprintf("%s is not used: %v", m.Place(), turnedOff(m.Kind)))
			continue
		}
		use = append(use, m)
	}
	return use, notes, err
}

func turnedOff(k cache.Kind) error {
	return fmt.Errorf("the administrator has turned %s off", setting(k))
}

// namedMedium reads PLACE, usb:PLACE or dvd:PLACE: a folder, a device or an image file. It is taken for a stick, or for what is said, unless it is on a
// medium whose kind the system knows: what IT has turned off is not brought in under another name.
func (e *Engine) namedMedium(s string) (cache.Medium, error) {
	dir, kind := s, cache.USB
	if rest, ok := strings.CutPrefix(s, "usb:"); ok {
		dir = rest
	} else if rest, ok := strings.CutPrefix(s, "dvd:"); ok {
		dir, kind = rest, cache.DVD
	}
	if dir == "" {
		return cache.Medium{}, problem.New("DS-USAGE", problem.Usage, nil, "--media needs a folder, a device or an image file", "", "name one that holds files of a stick or disc")
	}
	return e.finder.Named(dir, kind), nil
}

// scan looks through a medium when it is its drive's turn.
func (e *Engine) scan(ctx context.Context, m cache.Medium) (*cache.Inventory, error) {
	turn := e.drives.Turn(m)
	if err := turn.Take(ctx); err != nil {
		return nil, err
	}
	inv, err := e.look(ctx, m)
	turn.Pass()
	if err != nil {
		if !absent(err) {
			e.unhealthy(m, err)
		}
		return nil, err
	}
	inv.TakeTurns(turn)
	inv.FoundBy(e.finder)
	inv.LookForFree(e.freeOn(m))
	e.unlockMedia(inv)
	e.inPlace(m)
	return inv, nil
}

// absent reports whether nothing is there to be read: the folder of a medium that was pulled out, or a drive without a disc.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOMEDIUM) }

// emptyDrive reports whether a drive has no disc, which nobody has to be told but who named it.
func emptyDrive(m cache.Medium, named []string, err error) bool {
	return errors.Is(err, unix.ENOMEDIUM) && !slices.ContainsFunc(named, func(s string) bool { return strings.HasSuffix(s, m.Device) })
}

// shelved is a medium of a job.
type shelved struct {
	cache.Medium
	inv *cache.Inventory // nil: it could not be read
}

// scanMedia looks through the media. One that cannot be read is left out with a note. The caller closes the inventories.
func (e *Engine) scanMedia(ctx context.Context, named []string) (all []shelved, notes []string, err error) {
	use, notes, err := e.media(named)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range use {
		inv, err := e.scan(ctx, m)
		if ctx.Err() != nil {
			closeAll(inventories(all))
			return nil, nil, context.Cause(ctx)
		}
		if emptyDrive(m, named, err) {
			continue
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s is not used: %v", m.Place(), err))
		} else {
			for _, id := range inv.Sealed() {
				notes = append(notes, fmt.Sprintf("%s is encrypted, no key here (%s)", m.Place(), id))
			}
		}
		all = append(all, shelved{m, inv})
	}
	return all, notes, nil
}

func inventories(all []shelved) (invs []*cache.Inventory) {
	for _, s := range all {
		if s.inv != nil {
			invs = append(invs, s.inv)
		}
	}
	return invs
}

func closeAll(invs []*cache.Inventory) {
	for _, inv := range invs {
		inv.Close()
	}
}

// Health is what went wrong with a medium since the service started. It is never a reason to change a setting.
type Health struct {
	ReadErrors int    `json:"read_errors"` // blocks, files and folders that could not be read
	BadBlocks  int    `json:"bad_blocks"`  // blocks that could be read and are not what they should be
	Last       string `json:"last,omitempty"`
}

// maxPatients bounds the media whose health is remembered; a medium has another ID each time it is put in.
const maxPatients = 1000

// identity returns what a medium is remembered by.
func identity(m cache.Medium) string {
	if m.ID == "" {
		return m.Place()
	}
	return m.ID
}

// inPlace notes which medium is in a place.
func (e *Engine) inPlace(m cache.Medium) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.places) >= maxPatients {
		clear(e.places)
	}
	e.places[m.Place()] = m
}

// badBlock notes that a source did not give a block.
func (e *Engine) badBlock(_, name string, why error) {
	e.mu.Lock()
	m, ok := e.places[name]
	e.mu.Unlock()
	if ok && !errors.Is(why, cache.ErrGone) {
		e.unhealthy(m, why)
	}
}

func (e *Engine) unhealthy(m cache.Medium, why error) {
	if m.Kind != cache.USB && m.Kind != cache.DVD || errors.Is(why, context.Canceled) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.health) >= maxPatients {
		clear(e.health)
	}
	h := e.health[identity(m)]
	if isDamage(why) {
		h.BadBlocks++
	} else {
		h.ReadErrors++
	}
	h.Last = why.Error()
	e.health[identity(m)] = h
}

// healthOf returns what went wrong with a medium.
func (e *Engine) healthOf(m cache.Medium) Health {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health[identity(m)]
}

// has reports whether a medium is among others.
func has(all []cache.Medium, m cache.Medium) bool { return slices.ContainsFunc(all, m.Is) }
