package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/progress"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// extent is a run of a disk's content.
type extent struct {
	Offset int64  `json:"offset"` // bytes
	Length int64  `json:"length"`
	Member *int   `json:"member,omitempty"` // index in the chain; nil: nobody's
	File   string `json:"file,omitempty"`
}

func newMap(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "map FILE", Short: "Print which file of the chain holds which part of a disk",
		Long: "Prints the runs of the disk in order, with the file that holds each. What no file holds, which is zeros, is left out.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.chain(args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := collect(c, c.Extents(0, c.Size()), false)
			if err != nil {
				return err
			}
			return printExtents(cmd.OutOrStdout(), list, asJSON, map[string]any{"file": args[0], "size": c.Size(), "chain": c.Paths})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// collect lists runs. What nobody holds is left out unless zeros are a difference.
func collect(c *vhdfile.Chain, runs iter.Seq2[vhd.Extent, error], zeros bool) ([]extent, error) {
	list := []extent{}
	for e, err := range runs {
		if err != nil {
			return nil, err
		}
		if e.Member < 0 && !zeros {
			continue
		}
		x := extent{Offset: e.Offset, Length: e.Length}
		if e.Member >= 0 {
			x.Member, x.File = &e.Member, c.Paths[e.Member]
		}
		list = append(list, x)
	}
	return list, nil
}

func printExtents(w io.Writer, list []extent, asJSON bool, about map[string]any) error {
	if asJSON {
		about["extents"] = list
		return cli.JSON(w, about)
	}
	if len(list) == 0 {
		return nil
	}
	var rows [][]string
	for _, x := range list {
		who := "-"
		if x.Member != nil {
			who = strconv.Itoa(*x.Member)
		}
		rows = append(rows, []string{strconv.FormatInt(x.Offset, 10), strconv.FormatInt(x.Length, 10), who, x.File})
	}
	return cli.Table(w, []string{"OFFSET", "LENGTH", "MEMBER", "FILE"}, rows)
}

func newDiff(o *options) *cobra.Command {
	var asJSON, content bool
	c := &cobra.Command{
		Use: "diff A B", Short: "Print where two disks differ",
		Long: `Prints the runs of sectors in which the disks differ; nothing when they have the same content.

When B is a disk that A stands on, these are the runs that A and the disks between hold: that takes no
reading of content, and some of them may hold the same as B. --content compares the content in any case.
Where one of the disks has ended, zeros count.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !content {
				done, err := o.held(cmd, args[0], args[1], asJSON)
				if done || err != nil {
					return err
				}
			}
			return o.compare(cmd, args[0], args[1], asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().BoolVar(&content, "content", false, "compare the content, also along a chain")
	return c
}

// held prints what the disks above an ancestor hold; done is false when b is no ancestor of a.
func (o *options) held(cmd *cobra.Command, a, b string, asJSON bool) (done bool, err error) {
	c, err := o.chain(a)
	if errors.Is(err, vhd.NotVHD) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer c.Close()
	at := slices.IndexFunc(c.Paths, func(p string) bool { return canonical(p) == canonical(b) })
	if at < 1 {
		return false, nil
	}
	list, err := collect(c, c.Changed(at, 0, max(c.Size(), c.Members()[at].Size())), true)
	if err != nil {
		return false, err
	}
	return true, printExtents(cmd.OutOrStdout(), list, asJSON, map[string]any{"a": a, "b": b, "mode": "held"})
}

// compare prints the runs of sectors whose content differs.
func (o *options) compare(cmd *cobra.Command, a, b string, asJSON bool) error {
	x, _, closeX, err := o.content(a, "")
	if err != nil {
		return err
	}
	defer closeX.Close()
	y, _, closeY, err := o.content(b, "")
	if err != nil {
		return err
	}
	defer closeY.Close()
	m := meter()
	list, err := differences(cmd.Context(), x, y, m)
	m.Done()
	if err != nil {
		return err
	}
	return printExtents(cmd.OutOrStdout(), list, asJSON, map[string]any{"a": a, "b": b, "mode": "content"})
}

// differences reads both disks where one of them may hold something.
func differences(ctx context.Context, x, y vhd.Source, m *progress.Meter) ([]extent, error) {
	list := []extent{}
	p, q := make([]byte, mega), make([]byte, mega)
	size := max(x.Size(), y.Size())
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		start, err := nextOf(x, y, off, size)
		if err != nil {
			return nil, err
		}
		n := min(mega, size-start)
		for _, side := range []struct {
			s vhd.Source
			b []byte
		}{{x, p[:n]}, {y, q[:n]}} {
			if err := readZeroed(side.s, side.b, start); err != nil {
				return nil, err
			}
		}
		list = addDifferences(list, p[:n], q[:n], start)
		off = start + n
		m.Show("compare", off, size, "")
	}
	return list, nil
}

// nextOf returns where the next run of either disk begins.
func nextOf(x, y vhd.Source, off, size int64) (int64, error) {
	next := size
	for _, s := range []vhd.Source{x, y} {
		if off >= s.Size() {
			continue
		}
		start, end, err := s.NextRun(off)
		if err != nil {
			return 0, err
		}
		if start < end {
			next = min(next, start)
		}
	}
	return next, nil
}

// readZeroed fills b; behind the end of the disk are zeros.
func readZeroed(s vhd.Source, b []byte, off int64) error {
	n := int(min(max(s.Size()-off, 0), int64(len(b))))
	clear(b[n:])
	if n == 0 {
		return nil
	}
	got, err := s.ReadAt(b[:n], off)
	if errors.Is(err, io.EOF) && got == n {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read at %d: %w", off, err)
	}
	return nil
}

func addDifferences(list []extent, p, q []byte, at int64) []extent {
	if bytes.Equal(p, q) {
		return list
	}
	for i := 0; i < len(p); i += image.SectorSize {
		if bytes.Equal(p[i:i+image.SectorSize], q[i:i+image.SectorSize]) {
			continue
		}
		off := at + int64(i)
		if last := len(list) - 1; last >= 0 && list[last].Offset+list[last].Length == off {
			list[last].Length += image.SectorSize
			continue
		}
		list = append(list, extent{Offset: off, Length: image.SectorSize})
	}
	return list
}
