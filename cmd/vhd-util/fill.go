package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newFill(o *options) *cobra.Command {
	var name string
	var from, to number
	var fast, beyondLimit bool
	c := &cobra.Command{
		Use: "fill -n FILE", Short: "Give a disk everything that it reads as its own",
		Long: `Makes the disk hold all of its content itself: a differencing disk copies from its parents what it does not
have. Room for blocks of zeros, which are not stored, is set aside in the file system, so that later
writes cannot meet a full disk. The content stays as it is, also with -b.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (from.set || to.set || beyondLimit) && !fast {
				return usage("-f, -t and -B go with -b only")
			}
			if from.set && to.set && to.n < from.n {
				return usage("there are no sectors from %d to %d", from.n, to.n)
			}
			d, err := o.disk(name)
			if err != nil {
				return err
			}
			return errors.Join(fillDisk(cmd, d, from, to), d.Close())
		},
	}
	nameFlag(c, &name)
	c.Flags().BoolVarP(&fast, "blocks", "b", false, "accepted; allows -f and -t")
	numberFlag(c, &from, "from", "f", "from the block of this sector on")
	numberFlag(c, &to, "to", "t", "up to the block of this sector")
	c.Flags().BoolVarP(&beyondLimit, "beyond", "B", false, "accepted; no block lies behind 2 TiB in any case")
	return c
}

func fillDisk(cmd *cobra.Command, d *vhdfile.Disk, from, to number) error {
	h, ok := d.Leaf().Header()
	if !ok {
		return nil // a fixed disk is full
	}
	size := d.Size()
	if err := reserveRoom(d, h.BlockSize); err != nil {
		return err
	}
	m := meter()
	defer m.Done()
	last := size
	if to.set && to.n < sectors(size) {
		last = min((to.n*image.SectorSize/h.BlockSize+1)*h.BlockSize, size)
	}
	buf := make([]byte, min(h.BlockSize, 4*mega))
	for off := min(from.n, sectors(size)) * image.SectorSize / h.BlockSize * h.BlockSize; off < last; {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), last-off)]
		if _, err := d.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := d.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
		m.Show("fill", off, last, "")
	}
	return d.Sync()
}

// reserveRoom sets aside what all blocks that are not there yet will need.
func reserveRoom(d *vhdfile.Disk, blockSize int64) error {
	f, err := vhdfile.OpenFile(d.Paths[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Device {
		return nil
	}
	n := (d.Size() + blockSize - 1) / blockSize
	missing := n - int64(f.AllocatedBlocks())
	// A bitmap takes a sector at least, and data begin at a page.
	each := blockSize + max(blockSize/image.SectorSize/8, image.SectorSize) + pageSize
	w, err := os.OpenFile(d.Paths[0], os.O_RDWR, 0) // d has it locked
	if err != nil {
		return err
	}
	_, err = vhdfile.Reserve(w, f.Length+missing*each+vhd.FooterSize)
	return errors.Join(err, w.Close())
}

const pageSize = 4096
