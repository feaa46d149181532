package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newConvert(o *options) *cobra.Command {
	v := &convert{options: o}
	c := &cobra.Command{
		Use: "convert IN OUT", Short: "Write a disk to a new file in another form",
		Long: `Writes the whole disk IN, through its parents, to the new file OUT. IN is a VHD or a raw disk. OUT becomes
a dynamic VHD when it is called *.vhd, a raw disk when it is called *.raw or *.img, or what --to says. "-"
is standard output, for VHDs and raw disks that go to a pipe.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return v.run(cmd, args[0], args[1]) },
	}
	f := c.Flags()
	f.StringVar(&v.to, "to", "", "\"fixed\", \"dynamic\" or \"raw\"")
	f.StringVar(&v.from, "from", "", "read IN as \"vhd\" or \"raw\", whatever it looks like")
	f.BoolVar(&v.azure, "azure", false, "a fixed VHD as Azure takes it: its size is rounded up to whole MiB")
	return c
}

type convert struct {
	*options
	to, from string
	azure    bool
}

func (v *convert) run(cmd *cobra.Command, in, out string) error {
	if err := v.form(out); err != nil {
		return err
	}
	src, paths, closer, err := v.content(in, v.from)
	if err != nil {
		return err
	}
	m := meter()
	err = v.write(cmd.Context(), cmd.OutOrStdout(), src, paths, out, vhd.CopyOptions{Progress: show(m, "convert")})
	m.Done()
	return errors.Join(err, closer.Close())
}

// form settles what OUT becomes.
func (v *convert) form(out string) error {
	if v.azure {
		if v.to != "" && v.to != "fixed" {
			return usage("Azure takes fixed disks only")
		}
		v.to = "fixed"
	}
	switch ext := strings.ToLower(filepath.Ext(out)); {
	case v.to != "":
	case ext == ".vhd":
		v.to = "dynamic"
	case ext == ".raw" || ext == ".img":
		v.to = "raw"
	default:
		return usage("say what %s becomes with --to", out)
	}
	if v.to != "fixed" && v.to != "dynamic" && v.to != "raw" {
		return usage("--to is \"fixed\", \"dynamic\" or \"raw\", not %q", v.to)
	}
	if v.from != "" && v.from != "vhd" && v.from != "raw" {
		return usage("--from is \"vhd\" or \"raw\", not %q", v.from)
	}
	return nil
}

// content opens a disk to read, and tells the files that it is in. What is no VHD at all is a raw disk; a damaged VHD is not.
func (o *options) content(in, form string) (vhd.Source, []string, io.Closer, error) {
	if form != "raw" {
		c, err := o.chain(in)
		if err == nil {
			return c, c.Paths, c, nil
		}
		if form == "vhd" || !errors.Is(err, vhd.NotVHD) {
			return nil, nil, nil, err
		}
	}
	f, err := os.Open(in)
	if err != nil {
		return nil, nil, nil, err
	}
	src, err := vhdfile.RawSource(f)
	if err != nil {
		return nil, nil, nil, errors.Join(err, f.Close())
	}
	return src, []string{in}, f, nil
}

func (v *convert) write(ctx context.Context, stdout io.Writer, src vhd.Source, in []string, out string, c vhd.CopyOptions) error {
	o := vhd.CreateOptions{Type: vhd.Dynamic, UUID: newUUID(), Timestamp: now()}
	if v.to == "fixed" {
		o.Type = vhd.Fixed
	}
	if v.azure {
		o.SizeUnit = vhd.AzureSizeUnit
	}
	if out == "-" {
		if v.to == "raw" {
			return vhd.StreamRaw(ctx, stdout, src, c)
		}
		return vhd.Stream(ctx, stdout, src, o, c)
	}
	return writeNew(out, func(f vhd.File, device int64) error {
		o.DeviceSize = device
		switch {
		case v.to != "raw":
			return vhd.Convert(ctx, f, src, o, c)
		case device == 0:
			return vhd.ConvertRaw(ctx, f, src, c)
		case device < src.Size():
			return fmt.Errorf("%s: %w: %d bytes for a disk of %d", out, vhd.ErrDeviceFull, device, src.Size())
		}
		if err := vhd.StreamRaw(ctx, io.NewOffsetWriter(f, 0), src, c); err != nil {
			return err
		}
		return f.Sync()
	}, in...)
}

func newCopy(o *options) *cobra.Command {
	var name, to, key string
	var stdin bool
	c := &cobra.Command{
		Use: "copy -n FILE -N NEW", Short: "Write a disk to a new file of the same type",
		Long: `Writes the whole disk, through its parents, to a new VHD with a uuid of its own: a fixed disk to a fixed one,
any other to a dynamic one that has the same room to grow. Encryption is not supported.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key != "" || stdin {
				return refuse(syscall.ENOTSUP, nil, "encryption is not supported", unchanged, "")
			}
			c, err := o.chain(name)
			if err != nil {
				return err
			}
			m := meter()
			err = writeNew(to, func(f vhd.File, device int64) error {
				o := vhd.CreateOptions{Type: vhd.Dynamic, UUID: newUUID(), Timestamp: now(), DeviceSize: device}
				if h, ok := c.Members()[0].Header(); ok {
					o.BlockSize, o.MaxTableEntries = h.BlockSize, h.MaxTableEntries
				} else {
					o.Type = vhd.Fixed
				}
				return vhd.Convert(cmd.Context(), f, c, o, vhd.CopyOptions{Progress: show(m, "copy")})
			}, c.Paths...)
			m.Done()
			return errors.Join(err, c.Close())
		},
	}
	nameFlag(c, &name)
	c.Flags().StringVarP(&to, "new-name", "N", "", "the new `file`")
	c.Flags().StringVarP(&key, "key", "k", "", "not supported: the `file` with a key")
	c.Flags().BoolVarP(&stdin, "key-stdin", "E", false, "not supported: the key on stdin")
	required(c, "new-name")
	return c
}
