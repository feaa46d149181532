package main

import (
	"slices"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/internal/cli"
)

// machineFlags say what the VM of an image is made of besides its disks.
type machineFlags struct {
	memory            int64
	cpus              int
	firmware, network string
	usb               []int
}

func (f *machineFlags) add(c *cobra.Command) {
	c.Flags().Int64Var(&f.memory, "memory", 0, "of the VM, `MiB`")
	c.Flags().IntVar(&f.cpus, "cpus", 0, "of the VM")
	c.Flags().StringVar(&f.firmware, "firmware", "", "of the VM: bios (default) or uefi")
	c.Flags().StringVar(&f.network, "network", "", "of the VM: nat (default), bridge or none")
	c.Flags().IntSliceVar(&f.usb, "usb", nil, "`classes` of USB devices that the VM may be given, such as 3,8; default none")
}

// machine returns what the flags say; nil when they say nothing, so that all stays as it was in the version before.
func (f *machineFlags) machine(c *cobra.Command) (*image.Machine, error) {
	if !slices.ContainsFunc([]string{"memory", "cpus", "firmware", "network", "usb"}, c.Flags().Changed) {
		return nil, nil //nolint:nilnil // it is not said
	}
	m := &image.Machine{Memory: f.memory, CPUs: f.cpus}
	if err := m.Firmware.UnmarshalText([]byte(f.firmware)); err != nil {
		return nil, cli.UsageError("%v", err)
	}
	if err := m.Network.UnmarshalText([]byte(f.network)); err != nil {
		return nil, cli.UsageError("%v", err)
	}
	slices.Sort(f.usb)
	m.USB = slices.Compact(f.usb)
	if err := m.Check(); err != nil {
		return nil, cli.UsageError("%v", err)
	}
	return m, nil
}
