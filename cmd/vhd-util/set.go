package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newSet() *cobra.Command {
	var name, field string
	var value number
	c := &cobra.Command{
		Use: "set -n FILE -f FIELD -v VALUE", Short: "Set tapdisk's hidden field or marker",
		Long: `Sets "hidden" to 0 or 1, or "marker" to 0 to 255.`,
		RunE: func(*cobra.Command, []string) error {
			switch {
			case field == "marker" && value.n <= 255:
				return vhdfile.SetMarker(canonical(name), uint8(value.n))
			case field == "hidden" && value.n <= 1:
				hidden := uint8(value.n)
				return update(name, func(f *os.File, size int64) error {
					return vhd.SetFields(f, size, vhd.Fields{Hidden: &hidden})
				})
			case field != "marker" && field != "hidden":
				return usage("there is no field %q; \"hidden\" and \"marker\" can be set", field)
			}
			return usage("%s cannot be %d", field, value.n)
		},
	}
	nameFlag(c, &name)
	c.Flags().StringVarP(&field, "field", "f", "", "\"hidden\" or \"marker\"")
	numberFlag(c, &value, "value", "v", "the new value")
	required(c, "field", "value")
	return c
}

func newRepair() *cobra.Command {
	var name string
	var backup bool
	c := &cobra.Command{
		Use: "repair -n FILE", Short: "Mend what can be mended without doubt",
		Long: `Mends a missing or damaged footer from its copy, a copy from the footer, checksums, the batmap, and gives a
uuid to a disk without one. A disk that lost content is refused; then nothing is written.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return update(name, func(f *os.File, size int64) error {
				if backup {
					if err := backupWins(f, size); err != nil {
						return err
					}
				}
				res, err := vhd.Repair(f, size, vhd.RepairOptions{UUID: newUUID()})
				if err != nil {
					return err
				}
				for _, e := range res.Mended {
					fmt.Fprintf(cmd.OutOrStdout(), "mended: %v\n", e)
				}
				return nil
			})
		},
	}
	nameFlag(c, &name)
	c.Flags().BoolVarP(&backup, "backup", "b", false, "go by the footer's copy at the start")
	return c
}

// backupWins refuses where the copy of the footer would not be what the repair goes by.
func backupWins(f *os.File, size int64) error {
	rep, err := vhd.Check(f, size, vhd.CheckOptions{})
	if err != nil {
		return err
	}
	for _, e := range rep.Findings {
		if errors.Is(e, vhd.CopyDamaged) {
			return refuse(syscall.EINVAL, e, "the copy cannot be used", unchanged, "leave -b out: the footer at the end is good")
		}
		if errors.Is(e, vhd.CopyDiffers) {
			return refuse(syscall.ENOTSUP, e, "both footers are good, and the one at the end is the newer", unchanged, "leave -b out")
		}
	}
	return nil
}
