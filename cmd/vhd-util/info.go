package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// description is what "info" tells.
type description struct {
	File         string    `json:"file"`
	Type         string    `json:"type"`
	Size         int64     `json:"size"`          // bytes
	PhysicalSize int64     `json:"physical_size"` // bytes
	UUID         string    `json:"uuid"`
	Creator      string    `json:"creator"`
	Created      time.Time `json:"created"`
	Geometry     string    `json:"geometry"`
	BlockSize    int64     `json:"block_size,omitempty"`
	Allocated    int       `json:"allocated_blocks,omitempty"`
	Room         int64     `json:"room,omitempty"` // size that the block table has room for, in bytes
	Hidden       uint8     `json:"hidden"`
	Marker       uint8     `json:"marker"`
	SavedState   uint8     `json:"saved_state"`
	ParentUUID   string    `json:"parent_uuid,omitempty"`
	ParentPaths  []string  `json:"parent_paths,omitempty"`
	Chain        []string  `json:"chain,omitempty"` // leaf first
	ChainError   string    `json:"chain_error,omitempty"`
	Warnings     []string  `json:"warnings,omitempty"`
}

func newInfo(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "info FILE", Short: "Describe a disk and its chain", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := o.describe(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), d)
			}
			return d.print(cmd.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func (o *options) describe(name string) (*description, error) {
	f, err := file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	footer := f.Footer()
	d := &description{
		File: name, Type: f.Type().String(), Size: f.Size(), UUID: f.UUID().String(), Creator: text(footer.Creator.App[:]),
		Created: footer.Timestamp.Time(), Geometry: footer.Geometry.String(), Hidden: footer.Hidden, SavedState: footer.SavedState,
	}
	if d.PhysicalSize, err = f.PhysicalSize(); err != nil {
		return nil, err
	}
	if d.Marker, err = vhdfile.Marker(f.Path); err != nil {
		return nil, err
	}
	if n, size := f.Blocks(); size > 0 {
		d.BlockSize, d.Allocated, d.Room = size, f.AllocatedBlocks(), int64(n)*size
	}
	for _, w := range f.Warnings() {
		d.Warnings = append(d.Warnings, w.Error())
	}
	if f.Type() == vhd.Differencing {
		d.ParentUUID, d.ParentPaths = f.ParentUUID().String(), f.ParentPaths()
	}
	// A parent that is missing is a property of the disk too.
	c, err := o.chain(name)
	if err != nil {
		d.ChainError = err.Error()
		return d, nil
	}
	d.Chain = c.Paths
	return d, c.Close()
}

func (d *description) print(w io.Writer) error {
	row := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-14s%s\n", label, problem.Printable(fmt.Sprintf(format, args...)))
	}
	row("file", "%s", d.File)
	row("type", "%s", d.Type)
	row("size", "%s (%d bytes)", progress.Bytes(d.Size), d.Size)
	row("in the file", "%s (%d bytes)", progress.Bytes(d.PhysicalSize), d.PhysicalSize)
	row("uuid", "%s", d.UUID)
	row("creator", "%s", d.Creator)
	row("created", "%s", d.Created.Format("2006-01-02 15:04:05 MST"))
	row("geometry", "%s", d.Geometry)
	if d.BlockSize > 0 {
		row("blocks", "%d of %s, of at most %d", d.Allocated, progress.Bytes(d.BlockSize), d.Room/d.BlockSize)
	}
	row("hidden", "%d", d.Hidden)
	row("marker", "%d", d.Marker)
	if d.SavedState != 0 {
		row("saved state", "%d", d.SavedState)
	}
	if d.ParentUUID != "" {
		row("parent uuid", "%s", d.ParentUUID)
	}
	for i, p := range d.Chain {
		row(map[bool]string{true: "chain"}[i == 0], "%d  %s", i, p)
	}
	if d.ChainError != "" {
		row("chain", "not complete: %s", d.ChainError)
	}
	for _, s := range d.Warnings {
		row("warning", "%s", s)
	}
	return nil
}
