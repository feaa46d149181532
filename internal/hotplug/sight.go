package hotplug

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"disksync/cache"
	"disksync/internal/udisks"
)

// sight is one look at what there is.
type sight struct {
	w     *Watcher
	ctx   context.Context //nolint:containedctx // of the one look
	first bool            // since the Watcher began
	// waiting is set while others still have time to mount something that somebody here wants to use.
	waiting bool
	used    bool // somebody uses the Watcher
	now     time.Time
	media   []cache.Medium
	notes   []string
	there   map[string]bool // the IDs of all media
}

// kernel goes by the kernel's lists: what others have mounted, and the devices that nobody has.
func (s *sight) kernel() error {
	mounted, err := s.w.o.Finder.Find()
	if err != nil {
		return err
	}
	s.media = mounted
	devices, coming, err := s.w.o.Finder.Devices()
	if err != nil {
		return nil //nolint:nilerr // without sysfs there are the mounts
	}
	for _, m := range coming {
		// udev tells when it has looked. Whoever wants it waits for that no longer than for those who may mount it.
		s.there[m.ID] = true
		s.waited(m)
		if left := s.w.since[m.ID].Add(udevTime).Sub(s.now); left > 0 {
			s.w.after(left)
		} else {
			devices = append(devices, m)
		}
	}
	for _, m := range devices {
		s.there[m.ID] = true
		if slices.ContainsFunc(mounted, func(o cache.Medium) bool { return o.Device == m.Device }) {
			s.here(m)
			continue
		}
		if !s.w.wanted(m.Kind) {
			s.unwanted(m)
		} else if s.waited(m) {
			s.media = append(s.media, m)
		}
	}
	return nil
}

// waited reports whether others had the time to mount a medium. Those that are in from the beginning are not waited for.
func (s *sight) waited(m cache.Medium) bool {
	since, ok := s.w.since[m.ID]
	if !ok {
		if since = s.now; s.first {
			since = s.now.Add(-s.w.o.Grace)
		}
		s.w.since[m.ID] = since
	}
	left := since.Add(s.w.o.Grace).Sub(s.now)
	if left > 0 {
		s.w.after(left)
		s.waiting = s.waiting || s.w.wanted(m.Kind)
	}
	return left <= 0
}

// here notes that a medium was mounted: should it be unmounted, nobody is waited for.
func (s *sight) here(m cache.Medium) { s.w.since[m.ID] = s.now.Add(-s.w.o.Grace) }

// unwanted deals with a medium that nobody has mounted and nobody may use: it is only listed, for those who use others.
func (s *sight) unwanted(m cache.Medium) {
	if s.waited(m) && s.used {
		s.media = append(s.media, m)
	}
}

// volumes goes by what UDisks2 says.
func (s *sight) volumes(all []udisks.Volume) {
	for _, v := range all {
		m, ok := s.medium(v)
		if !ok {
			continue
		}
		s.there[m.ID] = true
		s.leaveOut(&v)
		switch {
		case len(v.Mounts) > 0:
			s.mounted(v, m)
		case s.w.wanted(m.Kind):
			s.unmounted(v, m)
		default:
			s.unwanted(m)
		}
	}
	s.forget(all)
	maps.DeleteFunc(s.w.numbered, func(device string, _ bool) bool {
		return !slices.ContainsFunc(all, func(v udisks.Volume) bool { return v.Device == device })
	})
}

// medium describes a volume; ok is false for one that is no removable medium with a file system, or that is to be left alone.
func (s *sight) medium(v udisks.Volume) (m cache.Medium, ok bool) {
	if v.Drive == "" || v.Ignore || v.System || v.Size == 0 || !v.HasFS || !(v.Optical || v.USB || v.Removable) || slices.Contains(v.Mounts, "/") {
		return m, false
	}
	m = cache.Medium{
		Kind: cache.USB, Device: v.Device, Drive: path.Base(v.Disk), Label: v.Label, FS: v.FS, Size: v.Size, ReadOnly: v.ReadOnly,
	}
	if v.Optical {
		m.Kind = cache.DVD
	}
	number := s.w.o.Finder.Sequence(m.Drive)
	if number == "" && s.w.numbered[v.Device] {
		return m, false // the kernel has forgotten the drive, and UDisks2 has yet to tell that it was pulled out
	}
	s.w.numbered[v.Device] = number != ""
	m.ID = cache.Identity(number, v.Size, v.UUID)
	return m, true
}

// leaveOut takes a mount away that was undone by this program, of which UDisks2 has not told yet. It would be taken for somebody else's.
func (s *sight) leaveOut(v *udisks.Volume) {
	u, ok := s.w.undone[v.Device]
	if !ok {
		return
	}
	left := u.at.Add(tellTime).Sub(s.now)
	if !slices.Contains(v.Mounts, u.dir) || left <= 0 {
		delete(s.w.undone, v.Device)
		return
	}
	v.Mounts = slices.DeleteFunc(slices.Clone(v.Mounts), func(dir string) bool { return dir == u.dir })
	s.w.after(left)
}

// mounted deals with a medium that is mounted, by whomever.
func (s *sight) mounted(v udisks.Volume, m cache.Medium) {
	s.here(m)
	ours := s.ours(v, m)
	if s.w.others[m.ID] = ours == nil; ours != nil {
		ours.seen, ours.path = true, v.Path
		if !s.w.wanted(m.Kind) {
			s.unmount(*ours)
			return
		}
		m.ReadOnly = true
	}
	m.Dir = v.Mounts[0]
	s.media = append(s.media, m)
}

// ours returns the record of a mount that this program made, nil when somebody else did.
func (s *sight) ours(v udisks.Volume, m cache.Medium) *mounted {
	ours := s.w.record.find(v.Device)
	if ours == nil {
		return nil
	}
	if ours.Dir == "" && ours.ID == m.ID {
		// It was asked for when the program crashed. Nobody else mounts with all of these options.
		dir, options, _ := s.w.o.Finder.Mounted(v.Device)
		if slices.Contains(v.Mounts, dir) && udisks.MountedSo(options) {
			ours.Dir = dir
		}
	}
	if ours.ID != m.ID || !slices.Contains(v.Mounts, ours.Dir) {
		s.drop(v.Device)
		return nil
	}
	return ours
}

// unmounted deals with a medium that somebody may use and nobody has mounted.
func (s *sight) unmounted(v udisks.Volume, m cache.Medium) {
	if ours := s.w.record.find(v.Device); ours != nil {
		if left := ours.at.Add(tellTime).Sub(s.now); ours.ID == m.ID && ours.Dir != "" && !ours.seen && left > 0 {
			// It was mounted just now, and UDisks2 has not told yet.
			m.Dir, m.ReadOnly = ours.Dir, true
			s.media = append(s.media, m)
			s.w.after(left)
			return
		}
		if ours.ID == m.ID && ours.path != "" { // not of an earlier run
			s.w.refused[m.ID] = unmountedByHand
		}
		s.drop(v.Device)
	}
	if s.w.others[m.ID] {
		s.w.refused[m.ID] = unmountedByHand
	}
	if why, ok := s.w.refused[m.ID]; ok {
		s.refuse(m, why)
		return
	}
	if !s.waited(m) {
		return
	}
	if err := s.w.record.put(mounted{ID: m.ID, Device: v.Device}); err != nil {
		s.refuse(m, fmt.Sprintf("that it is mounted cannot be noted: %v", err))
		return
	}
	dir, err := s.w.udisks.Mount(s.ctx, v.Path)
	switch {
	case errors.Is(err, udisks.ErrMounted), errors.Is(err, udisks.ErrGone):
		s.drop(v.Device) // UDisks2 tells what has become of it
	case err != nil:
		s.drop(v.Device)
		s.w.refused[m.ID] = err.Error()
		s.refuse(m, err.Error())
	default:
		delete(s.w.undone, v.Device)
		s.w.o.Log.Info("medium mounted", "device", v.Device, "dir", dir)
		s.note(s.w.record.put(mounted{ID: m.ID, Device: v.Device, Dir: dir, at: s.now, path: v.Path}))
		m.Dir, m.ReadOnly = dir, true
		s.media = append(s.media, m)
	}
}

// udevTime is how long udev is waited for to look at a device, which takes it seconds at most: it may be stuck, or have left its socket.
const udevTime = 30 * time.Second

const unmountedByHand = "somebody unmounted it"

// tellTime is how long UDisks2 may take to tell of a mount that it made or undid.
const tellTime = 5 * time.Second

// undone is a mount that this program has undone.
type undone struct {
	dir string
	at  time.Time
}

// refuse leaves a medium that cannot be mounted to those who read the device itself. What somebody unmounted is left alone.
func (s *sight) refuse(m cache.Medium, why string) {
	if why == unmountedByHand {
		s.notes = append(s.notes, fmt.Sprintf("%s is not used: %s", m.Device, why))
		return
	}
	s.notes = append(s.notes, fmt.Sprintf("%s is not mounted: %s", m.Device, why))
	s.media = append(s.media, m)
}

// forget drops what is recorded of media that are gone, and unmounts what nobody wants any more.
func (s *sight) forget(all []udisks.Volume) {
	for _, ours := range slices.Clone(s.w.record.all) {
		i := slices.IndexFunc(all, func(v udisks.Volume) bool { return v.Device == ours.Device })
		if i < 0 {
			s.drop(ours.Device)
			continue
		}
		m, ok := s.medium(all[i])
		switch {
		case len(all[i].Mounts) > 0:
		case !ok, ours.ID != m.ID, ours.seen, ours.path == "":
			s.drop(ours.Device) // it is mounted no more
		case !s.w.wanted(m.Kind):
			s.unmount(ours)
		}
	}
}

// unmount unmounts what this program has mounted. While somebody reads from it, it is tried again.
func (s *sight) unmount(ours mounted) {
	err := s.w.udisks.Unmount(s.ctx, ours.path)
	switch {
	case errors.Is(err, udisks.ErrBusy):
		s.w.after(busyAgain)
	case err != nil && !errors.Is(err, udisks.ErrGone):
		s.w.o.Log.Warn("medium not unmounted", "device", ours.Device, "dir", ours.Dir, "error", err)
		s.w.after(10 * busyAgain)
	default:
		s.w.o.Log.Info("medium unmounted", "device", ours.Device, "dir", ours.Dir)
		s.w.undone[ours.Device] = undone{ours.Dir, time.Now()}
		s.drop(ours.Device)
	}
}

func (s *sight) drop(device string) {
	if s.w.record.find(device) != nil {
		s.note(s.w.record.drop(device))
	}
}

// note logs that the record could not be stored: after a crash something may stay mounted.
func (s *sight) note(err error) {
	if err != nil {
		s.w.o.Log.Warn("what is mounted cannot be noted", "error", err)
	}
}
