package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"disksync/internal/durable"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newResize(o *options) *cobra.Command {
	var name, journal string
	var size number
	var fast, cut bool
	c := &cobra.Command{
		Use: "resize -n FILE -s SIZE", Short: "Change the size of a disk",
		Long: `Gives the disk a size of SIZE MiB. What is added reads as zeros. A disk that would lose data by shrinking is
refused.

No journal is needed: a crash leaves the disk with the old or the new size. -j is accepted and nothing is
made; -f refuses where the block table must move, as the original does.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if journal != "" && fast {
				return usage("-j does not go with -f")
			}
			d, err := o.disk(name)
			if err != nil {
				return err
			}
			err = resize(cmd, d, size, fast, cut)
			return errors.Join(err, d.Close())
		},
	}
	nameFlag(c, &name)
	numberFlag(c, &size, "size", "s", "the new size in MiB")
	c.Flags().StringVarP(&journal, "journal", "j", "", "accepted; no journal is made")
	c.Flags().BoolVarP(&fast, "fast", "f", false, "grow only, and only in the room that the block table has")
	c.Flags().BoolVar(&cut, "cut", false, "shrink the disk even if data is lost")
	required(c, "size")
	return c
}

func resize(cmd *cobra.Command, d *vhdfile.Disk, size number, fast, cut bool) error {
	bytes := size.megabytes()
	h, dynamic := d.Leaf().Header()
	if dynamic && h.BlockSize == vhd.DefaultBlockSize {
		bytes = wholeBlocks(bytes)
	}
	if fast {
		switch {
		case !dynamic:
			return usage("a fixed disk is resized without -f")
		case bytes < d.Size():
			return usage("%d bytes are less than the %d that the disk has; -f only grows", bytes, d.Size())
		case bytes > int64(h.MaxTableEntries)*h.BlockSize:
			return usage("the block table has room for %d MiB; without -f it gets more", int64(h.MaxTableEntries)*h.BlockSize/mega)
		}
	}
	return d.Resize(cmd.Context(), bytes, vhd.ResizeOptions{Force: cut})
}

func newRevert() *cobra.Command {
	var name, journal string
	c := &cobra.Command{
		Use: "revert -n FILE -j JOURNAL", Short: "Take back a resize of XenServer's vhd-util that was interrupted",
		Long: `Writes back what the journal kept, and removes the journal when the disk is sound. The journal is read and
checked as a whole before anything is written. Resizes of this program leave no journal.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := vhdfile.RevertJournal(canonical(name), canonical(journal)); err != nil {
				return err
			}
			if err := sound(name); err != nil {
				return fmt.Errorf("after the journal was written back: %w", err)
			}
			return removeJournal(journal)
		},
	}
	nameFlag(c, &name)
	c.Flags().StringVarP(&journal, "journal", "j", "", "the journal's `file`")
	required(c, "journal")
	return c
}

func sound(name string) error {
	f, err := vhdfile.OpenFile(canonical(name))
	if err != nil {
		return err
	}
	return f.Close()
}

// removeJournal removes a file; a journal on a block device stays.
func removeJournal(name string) error {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return err
	}
	dir, err := durable.Dir(filepath.Dir(canonical(name)))
	if err != nil {
		return err
	}
	return durable.Remove(dir, filepath.Base(canonical(name)))
}
