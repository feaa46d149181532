package endpoint

import (
	"context"
	"fmt"
	"strings"

	"disksync/cache"
	"disksync/config"
	"disksync/internal/problem"
)

// MediumInfo describes a medium to people.
type MediumInfo struct {
	cache.Medium
	Used  bool     `json:"used"`            // the settings allow its use
	Found string   `json:"found,omitempty"` // what was recognised on it
	Notes []string `json:"notes,omitempty"`
}

// media returns the media to look at: the folders that somebody named, then what is mounted, each only as far as the settings
// allow its kind. A folder that is named counts as a USB medium unless it is on a disc, or "dvd:" stands before it: what IT has
// turned off stays off, whoever asks.
func (e *Engine) media(named []string) (use []cache.Medium, notes []string, err error) {
	var all []cache.Medium
	for _, s := range named {
		m, err := e.namedMedium(s)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, m)
	}
	found, err := e.finder.Find()
	if err != nil {
		// Without a list of mounts there are the named ones still.
		notes = append(notes, err.Error())
	}
	all = append(all, found...)
	seen := map[string]bool{}
	for _, m := range all {
		if seen[m.Place()] {
			continue
		}
		seen[m.Place()] = true
		if s := setting(m.Kind); !e.Settings().Bool(s) {
			notes = append(notes, fmt.Sprintf("%s is not used: the administrator has turned %s off", m.Place(), s))
			continue
		}
		use = append(use, m)
	}
	return use, notes, nil
}

// setting returns the name of the setting that allows a kind of medium.
func setting(k cache.Kind) string {
	if k == cache.DVD {
		return config.EnableDVDCache
	}
	return config.EnableUSBCache
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

// scanMedia looks through the media. One that cannot be read is left out with a note. The caller closes the inventories.
func (e *Engine) scanMedia(ctx context.Context, named []string) (invs []*cache.Inventory, notes []string, err error) {
	use, notes, err := e.media(named)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range use {
		inv, err := e.look(ctx, m)
		if ctx.Err() != nil {
			closeAll(invs)
			return nil, nil, context.Cause(ctx)
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s is not used: %v", m.Place(), err))
			continue
		}
		invs = append(invs, inv)
	}
	return invs, notes, nil
}

func closeAll(invs []*cache.Inventory) {
	for _, inv := range invs {
		inv.Close()
	}
}

// Media describes the media that are there, and the named folders.
func (e *Engine) Media(ctx context.Context, named []string) ([]MediumInfo, error) {
	out := []MediumInfo{}
	var all []cache.Medium
	for _, s := range named {
		m, err := e.namedMedium(s)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	found, err := e.finder.Find()
	if err != nil {
		return nil, err
	}
	for _, m := range append(all, found...) {
		info := MediumInfo{Medium: m, Used: e.Settings().Bool(setting(m.Kind))}
		inv, err := e.look(ctx, m)
		if err != nil {
			info.Notes = []string{err.Error()}
			out = append(out, info)
			continue
		}
		info.Found, info.Notes = inv.Summary(), inv.Notes
		inv.Close()
		out = append(out, info)
	}
	return out, nil
}
