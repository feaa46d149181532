package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newModify(o *options) *cobra.Command {
	m := &modify{options: o}
	c := &cobra.Command{
		Use: "modify -n FILE", Short: "Lead a disk to another parent, move its footer, or empty it",
		Long: `*** Dangerous operations, use with care ***

-p leads a differencing disk to another parent. The content of that parent must be, byte for byte, that of
the parent which the disk was made on, as after a coalesce: nobody can see a mistake later.
-s moves the footer to the end of a device or file of SIZE bytes.
-z throws the disk's own content away.`,
		RunE: func(*cobra.Command, []string) error { return m.run() },
	}
	nameFlag(c, &m.name)
	c.Flags().StringVarP(&m.parent, "parent", "p", "", "the new parent's `file`")
	c.Flags().BoolVarP(&m.raw, "raw", "m", false, "the new parent is a raw disk")
	numberFlag(c, &m.size, "size", "s", "the new length of the file, in bytes")
	c.Flags().BoolVarP(&m.kill, "zero", "z", false, "make the disk empty")
	return c
}

type modify struct {
	*options
	name, parent string
	raw, kill    bool
	size         number
}

func (m *modify) run() error {
	if m.kill {
		if err := m.empty(); err != nil {
			return err
		}
	}
	if m.size.set {
		if err := vhdfile.MoveFooter(canonical(m.name), m.size.n); err != nil {
			return err
		}
	}
	if m.parent != "" {
		return m.relink()
	}
	// A disk that does not open is an error also when nothing is to be done.
	return sound(m.name)
}

func (m *modify) relink() error {
	var id image.UUID
	if !m.raw {
		c, err := m.chain(m.parent)
		if err != nil {
			return err
		}
		defer c.Close()
		if slices.ContainsFunc(c.Paths, func(p string) bool { return canonical(p) == canonical(m.name) }) {
			return fmt.Errorf("%w: %s is %s itself, or stands on it; %s", vhd.Cycle, m.parent, m.name, unchanged)
		}
		if id = c.Members()[0].UUID(); id.IsZero() {
			return fmt.Errorf("%s: %w; repair it first", m.parent, vhd.NilUUID)
		}
	}
	st, err := os.Stat(m.parent)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() && st.Mode()&os.ModeDevice == 0 {
		return refuse(syscall.EINVAL, nil, m.parent+" is no file and no block device", unchanged, "")
	}
	rel, err := relative(canonical(m.name), m.parent)
	if err != nil {
		return err
	}
	return update(m.name, func(f *os.File, size int64) error {
		_, err := vhd.Relink(f, size, vhd.Parent{UUID: id, Timestamp: vhd.TimestampOf(st.ModTime()), Path: rel}, vhd.RelinkOptions{SameContent: true})
		return err
	})
}

// empty puts an empty disk with the same identity in the place of this one, in one step.
func (m *modify) empty() error {
	f, err := file(m.name)
	if err != nil {
		return err
	}
	defer f.Close()
	h, ok := f.Header()
	if !ok {
		return refuse(syscall.ENOSYS, nil, m.name+" is fixed; a fixed disk cannot be emptied so", unchanged, "make a new one")
	}
	footer := f.Footer()
	o := vhd.CreateOptions{
		Size: f.Size(), Type: f.Type(), BlockSize: h.BlockSize, MaxTableEntries: h.MaxTableEntries, UUID: f.UUID(), Timestamp: now(),
	}
	if f.Type() == vhd.Differencing {
		o.Parent = &vhd.Parent{UUID: f.ParentUUID(), Timestamp: h.ParentTimestamp}
		if at, _, err := f.Parent(m.lookup(m.name)); err == nil {
			o.Parent.Path, err = relative(canonical(m.name), at)
			if err != nil {
				return err
			}
		} else if errors.Is(err, vhd.NoParent) {
			return fmt.Errorf("%s: %w", m.name, err)
		} else {
			return err
		}
	}
	fill := func(w vhd.File, device int64) error {
		o.DeviceSize = device
		if err := vhd.Create(w, o); err != nil || footer.Hidden == 0 {
			return err
		}
		return hide(w, device)
	}
	if f.Device {
		return fillDevice(canonical(m.name), fill)
	}
	return replace(m.name, fill)
}

// hide marks a disk as hidden.
func hide(w vhd.File, size int64) error {
	if f, ok := w.(interface{ Size() (int64, error) }); ok && size == 0 {
		var err error
		if size, err = f.Size(); err != nil {
			return err
		}
	}
	hidden := uint8(1)
	return vhd.SetFields(w, size, vhd.Fields{Hidden: &hidden})
}
