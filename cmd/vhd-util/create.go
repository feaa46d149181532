package main

import (
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newCreate() *cobra.Command {
	var name string
	var size, room number
	var reserve bool
	c := &cobra.Command{
		Use: "create -n FILE -s SIZE", Short: "Make an empty disk",
		Long: `Makes an empty disk of SIZE MiB, rounded up to whole blocks of 2 MiB: a dynamic one, or with -r a fixed
one, whose room on the disk is set aside.

A file that is there is replaced when it is empty, else refused. A block device is written.`,
		RunE: func(*cobra.Command, []string) error {
			o := vhd.CreateOptions{
				Size: wholeBlocks(size.megabytes()), Type: vhd.Dynamic, UUID: newUUID(), Timestamp: now(),
			}
			if room.set && room.n < size.n {
				return usage("-S %d is less than -s %d", room.n, size.n)
			}
			if o.MaxTableEntries = blocks(room); reserve {
				o.Type, o.MaxTableEntries = vhd.Fixed, 0
			}
			return writeNew(name, func(f vhd.File, device int64) error {
				o.DeviceSize = device
				if reserve && device == 0 {
					if err := setAside(f, o.Size+vhd.FooterSize); err != nil {
						return err
					}
				}
				return vhd.Create(f, o)
			})
		},
	}
	nameFlag(c, &name)
	numberFlag(c, &size, "size", "s", "size in MiB")
	numberFlag(c, &room, "room", "S", "size in MiB that the disk can grow to later with \"resize -f\"")
	c.Flags().BoolVarP(&reserve, "reserve", "r", false, "make a fixed disk")
	required(c, "size")
	return c
}

// blocks returns the number of table entries of a disk of the size.
func blocks(size number) uint32 {
	n := wholeBlocks(size.megabytes()) / vhd.DefaultBlockSize
	return uint32(min(n, vhd.MaxBlocks+1)) // more than can be is refused by the library, in its words
}

// wholeBlocks returns a size rounded up to blocks, as the original has it.
func wholeBlocks(size int64) int64 {
	return (size + vhd.DefaultBlockSize - 1) / vhd.DefaultBlockSize * vhd.DefaultBlockSize
}

// setAside makes sure of the room for length bytes, where the file system can.
func setAside(f io.ReaderAt, length int64) error {
	if r, ok := f.(interface{ Fd() uintptr }); ok {
		if _, err := vhdfile.Reserve(r, length); err != nil {
			return err
		}
	}
	return nil
}

func newSnapshot(o *options) *cobra.Command {
	s := &snapshot{options: o}
	c := &cobra.Command{
		Use: "snapshot -n FILE -p PARENT", Short: "Make a child of a disk",
		Long: `Makes an empty differencing disk. From then on the parent must not change.

When PARENT is itself an empty differencing disk, its parent becomes the new disk's parent, so that chains
do not grow for nothing; -e makes it PARENT in any case.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	nameFlag(c, &s.name)
	c.Flags().StringVarP(&s.parent, "parent", "p", "", "the parent's `file`")
	numberFlag(c, &s.room, "room", "S", "size in MiB that the disk can grow to later with \"resize -f\"")
	numberFlag(c, &s.limit, "limit", "l", "refuse to make a chain of more than this many disks")
	c.Flags().BoolVarP(&s.raw, "raw", "m", false, "the parent is a raw disk")
	c.Flags().BoolVarP(&s.exact, "exact", "e", false, "take this parent even if it is empty")
	required(c, "parent")
	return c
}

type snapshot struct {
	*options
	name, parent string
	room, limit  number
	raw, exact   bool
}

func (s *snapshot) run(cmd *cobra.Command) error {
	if s.raw {
		return s.makeRaw()
	}
	c, err := s.chain(s.parent)
	if err != nil {
		return err
	}
	defer c.Close()
	at := 0
	for members := c.Members(); !s.exact && at+1 < len(members) && empty(members[at]); {
		at++
	}
	parent := c.Members()[at]
	if depth := len(c.Members()) - at; s.limit.n > 0 && int64(depth)+1 > s.limit.n && !parent.UUID().IsZero() {
		fmt.Fprintf(cmd.OutOrStdout(), "snapshot depth exceeded: current depth: %d, limit: %d\n", depth, s.limit.n)
		return refuse(syscall.ENOSPC, nil, fmt.Sprintf("the chain of %s has %d disks already, and -l allows %d", s.parent, depth, s.limit.n), unchanged,
			"coalesce the chain first")
	}
	// The size is that of the disk that was named, also where the parent is another.
	return s.write(parent, c.Paths[at], c.Size())
}

func empty(m *vhd.Image) bool { return m.Type() == vhd.Differencing && m.AllocatedBlocks() == 0 }

func (s *snapshot) makeRaw() error {
	f, size, err := openRaw(s.parent)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.write(vhd.Raw(f, size), s.parent, size)
}

func (s *snapshot) write(parent *vhd.Image, at string, size int64) error {
	if s.room.set && s.room.megabytes() < size {
		return usage("-S %d MiB is less than the size of %s, %d bytes", s.room.n, s.parent, size)
	}
	rel, err := relative(s.name, at)
	if err != nil {
		return err
	}
	create := vhd.CreateOptions{Size: size, UUID: newUUID(), Timestamp: now(), MaxTableEntries: blocks(s.room)}
	return writeNew(s.name, func(f vhd.File, device int64) error {
		create.DeviceSize = device
		return vhd.Snapshot(f, parent, rel, create)
	}, at)
}
