package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newCoalesce(o *options) *cobra.Command {
	m := &coalesce{options: o}
	c := &cobra.Command{
		Use: "coalesce -n FILE", Short: "Merge a disk into its parent, or into an ancestor",
		Long: `Writes what the disk holds into its parent; with -a what it and the disks between hold into that ancestor;
with -o the whole disk into a new file. The disks above stay as they are and can be removed, once the
children of the topmost are led to the ancestor with "modify -p".

An interrupted merge leaves every disk of the chain as it reads; the same command finishes it. When another
disk still needs the parent as it is, nothing is done: the folders of the chain are searched for such disks.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd) },
	}
	nameFlag(c, &m.name)
	f := c.Flags()
	f.StringVarP(&m.ancestor, "ancestor", "a", "", "merge into this `file`")
	f.StringVarP(&m.output, "output", "o", "", "write a new dynamic disk to this `file` instead")
	f.BoolVarP(&m.percent, "progress", "p", false, "print the percentage on stdout")
	f.BoolP("sparse", "s", false, "accepted; zeros are never stored where they hide nothing")
	f.StringP("step-parent", "x", "", "not supported; use --parents")
	f.BoolVar(&m.grow, "grow", false, "let the ancestor grow to the size of the disk")
	f.BoolVar(&m.noSiblings, "no-sibling-check", false, "you know that no other disk needs the parent; such a disk would be destroyed")
	return c
}

type coalesce struct {
	*options
	name, ancestor, output    string
	percent, grow, noSiblings bool
}

func (m *coalesce) run(cmd *cobra.Command) error {
	if cmd.Flags().Changed("step-parent") {
		return refuse(syscall.ENOTSUP, nil, "-x is not supported", unchanged, "name the folder of the parent with --parents, or lead the disk to it with \"vhd-util modify -p\"")
	}
	if m.output != "" && m.ancestor != "" {
		return usage("-o does not go with -a")
	}
	c, err := m.chain(m.name)
	if err != nil {
		return err
	}
	defer c.Close()
	meter := meter()
	defer meter.Done()
	tell := show(meter, "coalesce")
	if m.percent {
		tell = percentOn(cmd.OutOrStdout(), tell)
	}
	if m.output != "" {
		return writeNew(m.output, func(f vhd.File, device int64) error {
			o := vhd.CreateOptions{UUID: newUUID(), Timestamp: now(), DeviceSize: device, Type: vhd.Dynamic}
			return vhd.Convert(cmd.Context(), f, c, o, vhd.CopyOptions{Progress: tell})
		}, c.Paths...)
	}
	at, err := m.find(c)
	if err != nil {
		return err
	}
	n, err := m.merge(cmd, c, at, tell)
	if err != nil {
		return err
	}
	meter.Done()
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Coalesced %d sectors\n", n)
	return err
}

// percentOn also prints the percentage as the original does.
func percentOn(w io.Writer, tell func(done, total int64)) func(done, total int64) {
	return func(done, total int64) {
		tell(done, total)
		if done >= total {
			fmt.Fprintf(w, "\r100.00%%\n")
			return
		}
		fmt.Fprintf(w, "\r%6.2f%%", 100*float64(done)/float64(total))
	}
}

// find returns the ancestor's place in the chain.
func (m *coalesce) find(c *vhdfile.Chain) (int, error) {
	if len(c.Members()) == 1 {
		return 0, refuse(syscall.EINVAL, nil, m.name+" is no differencing disk: there is nothing to merge it into", unchanged, "")
	}
	if m.ancestor == "" {
		return 1, nil
	}
	at := slices.IndexFunc(c.Paths, func(p string) bool { return canonical(p) == canonical(m.ancestor) })
	if at < 1 {
		return 0, refuse(syscall.EINVAL, nil, fmt.Sprintf("%s is no ancestor of %s", m.ancestor, m.name), unchanged, "\"vhd-util info\" shows the chain")
	}
	return at, nil
}

func (m *coalesce) merge(cmd *cobra.Command, c *vhdfile.Chain, at int, tell func(done, total int64)) (int64, error) {
	var merged int64
	for e, err := range c.Changed(at, 0, c.Size()) {
		if err != nil {
			return 0, err
		}
		merged += sectors(e.Length)
	}
	raw := at == len(c.Members())-1 && c.Members()[at-1].ParentUUID().IsZero()
	into, closer, err := m.open(c.Paths[at], raw)
	if err != nil {
		return 0, err
	}
	o := vhd.CoalesceOptions{Children: vhd.NoOtherChildren, Grow: m.grow, Progress: tell}
	if !m.noSiblings {
		o.Children = (&family{paths: c.Paths[:at+1]}).children
	}
	err = vhd.Coalesce(cmd.Context(), into, c.Members()[:at], o)
	return merged, errors.Join(err, closer.Close())
}

// open opens the ancestor for writing.
func (m *coalesce) open(name string, raw bool) (*vhd.Disk, io.Closer, error) {
	if !raw {
		d, err := m.disk(name)
		if err != nil {
			return nil, nil, err
		}
		return d.Disk, d, nil
	}
	f, err := vhdfile.OpenWritable(name)
	if err != nil {
		return nil, nil, err
	}
	size, err := vhdfile.Size(f)
	if err == nil && size%image.SectorSize != 0 {
		err = fmt.Errorf("%s: %w: %d bytes", name, vhd.BadSize, size)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return vhd.OpenRawDisk(f, size), f, nil
}
