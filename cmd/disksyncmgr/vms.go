package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/vhd"
)

func newVMs(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "vms", Short: "List the VMs on this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				vms, err := d.VMs(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), vms)
				}
				var rows [][]string
				var waits []string
				for _, v := range vms {
					if v.Waits != "" {
						waits = append(waits, fmt.Sprintf("VM %s waits: %s", v.Name, v.Waits))
					}
					previous := "-"
					if v.Previous != 0 {
						previous = v.Previous.String()
					}
					for i, disk := range v.Disks {
						row := []string{v.Name, stateOf(v), v.Image, v.Version.String(), previous, string(disk.Role), progress.Bytes(disk.Size), disk.Leaf}
						if i > 0 {
							row[0], row[1], row[2], row[3], row[4] = "", "", "", "", ""
						}
						rows = append(rows, row)
					}
				}
				err = cli.Table(cmd.OutOrStdout(), []string{"VM", "STATE", "IMAGE", "VERSION", "PREVIOUS", "ROLE", "SIZE", "DISK"}, rows)
				for _, w := range waits {
					printLine(cmd.OutOrStdout(), "%s", w)
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func newRollback(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "rollback [VM]", Short: "Make the previous version of a VM the current one; needs no network", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				v, err := d.RollBack(cmd.Context(), optional(args))
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), v)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "VM %s has version %d of %s again; version %d is kept\n", v.Name, v.Version, v.Image, v.Previous)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the VM as JSON")
	return c
}

func newRemove(o *options) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "remove VM", Short: "Remove a VM with its disks and everything that was written to them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				ok, err := cli.Confirm(cmd.Context(), "Remove VM "+args[0]+" with everything that was written to its disks?", "give --yes")
				if err == nil && !ok {
					err = problem.New("DS-NOT-CONFIRMED", problem.Failure, nil, "not removed", "the VM is as it was", "")
				}
				if err != nil {
					return err
				}
			}
			return o.with(cmd.Context(), func(d door) error { return d.Remove(cmd.Context(), args[0]) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func newExport(o *options) *cobra.Command {
	var role, to string
	var force bool
	c := &cobra.Command{
		Use: "export [VM] --to FILE", Short: "Write the present content of a VM's disk to a file", Args: cobra.MaximumNArgs(1),
		Long: `Writes what the VM would see on its disk now, with everything that it has written: a sparse raw image, or
a dynamic VHD when FILE ends in .vhd.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var r image.Role
			if err := r.UnmarshalText([]byte(role)); err != nil {
				return cli.UsageError("%v", err)
			}
			if to == "" {
				return cli.UsageError("name a file with --to")
			}
			return o.with(cmd.Context(), func(d door) error {
				vm, disk, err := findDisk(cmd, d, optional(args), r)
				if err != nil {
					return err
				}
				return export(cmd, d, vm, disk, to, force)
			})
		},
	}
	c.Flags().StringVar(&role, "role", string(image.System), "`disk` to export: system, application or user")
	c.Flags().StringVar(&to, "to", "", "`file` to write")
	c.Flags().BoolVar(&force, "force", false, "in place of a file that is there")
	return c
}

func findDisk(cmd *cobra.Command, d door, name string, r image.Role) (string, endpoint.DiskReceipt, error) {
	vms, err := d.VMs(cmd.Context())
	if err != nil {
		return "", endpoint.DiskReceipt{}, err
	}
	if name == "" && len(vms) != 1 {
		return "", endpoint.DiskReceipt{}, cli.UsageError("there are %d VMs on this machine; name one", len(vms))
	}
	for _, v := range vms {
		if name != "" && v.Name != name {
			continue
		}
		for _, disk := range v.Disks {
			if disk.Role == r {
				return v.Name, disk, nil
			}
		}
		return "", endpoint.DiskReceipt{}, problem.New("DS-NO-DISK", problem.NotFound, nil, fmt.Sprintf("VM %s has no %s disk", v.Name, r), "", "")
	}
	return "", endpoint.DiskReceipt{}, problem.New("DS-NO-VM", problem.NotFound, nil, "there is no VM "+name+" on this machine", "", "`disksyncmgr vms` shows them")
}

// export writes under a temporary name first: a file with the name that was asked for is a complete one.
func export(cmd *cobra.Command, d door, vm string, disk endpoint.DiskReceipt, to string, force bool) error {
	fsys, err := durable.Dir(filepath.Dir(to))
	if err != nil {
		return problem.New("DS-EXPORT", problem.Failure, err, "cannot write to the folder of "+to, "nothing was changed", "name a file in a folder that is there")
	}
	name := filepath.Base(to)
	if _, err := fsys.Stat(name); err == nil && !force {
		return problem.New("DS-EXISTS", problem.Busy, nil, to+" is there already", "it is as it was", "give another name, or --force")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A file of the user's may have any name but this one.
	temp := name + "." + deploy.NewUUID().String() + durable.TempSuffix
	if err := exportTo(cmd, d, vm, disk, fsys, temp, strings.EqualFold(filepath.Ext(name), ".vhd")); err != nil {
		return errors.Join(err, durable.Remove(fsys, temp))
	}
	if err := durable.Publish(fsys, temp, name); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s disk of VM %s: %s in %s\n", disk.Role, vm, progress.Bytes(disk.Size), to)
	return nil
}

func exportTo(cmd *cobra.Command, d door, vm string, disk endpoint.DiskReceipt, fsys durable.FS, temp string, asVHD bool) error {
	f, err := fsys.Create(temp, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var out io.WriterAt = f
	var target *vhd.Disk
	if asVHD {
		o := vhd.CreateOptions{Size: disk.Size, UUID: deploy.NewUUID(), Timestamp: vhd.TimestampOf(time.Now())}
		if err := vhd.Create(f, o); err != nil {
			return err
		}
		size, err := f.Size()
		if err != nil {
			return err
		}
		if target, err = vhd.OpenDisk(f, size, nil); err != nil {
			return err
		}
		out = target
	}
	meter := progress.New(os.Stderr)
	defer meter.Done()
	show := func(done int64) { meter.Show("export", done, disk.Size, "") }
	size, err := d.Export(cmd.Context(), vm, disk.Role, out, show)
	if err != nil {
		return err
	}
	show(size) // what is zero is not written, and not told
	if target != nil {
		return target.Sync()
	}
	if have, err := f.Size(); err != nil {
		return err
	} else if have < size {
		// Zeros at the end were not written; the file has them all the same.
		if _, err := f.WriteAt([]byte{0}, size-1); err != nil {
			return err
		}
	}
	return f.Sync()
}
