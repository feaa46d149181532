package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/progress"
)

func newBackup(o *options) *cobra.Command {
	var asJSON, allBlocks bool
	var limit string
	c := &cobra.Command{
		Use: "backup [VM]", Short: "Make a point of the backups of a VM", Args: cobra.MaximumNArgs(1),
		Long: `Sends what a VM has written since its last backup to the Synchronizer, as a point from which the VM can be
restored. The VM may run: its disks are frozen at one instant, and it goes on. Interrupt it whenever
you like: the same command goes on from there.

Of a static VM all disks are backed up, of the others the user disk. What file systems call free is left
out of what was written, where they are in order: when the VM is off, or its guest agent has frozen them.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				r := endpoint.Request{Kind: endpoint.Backup, VM: optional(args), Limit: limit, AllBlocks: allBlocks}
				return runAndReport(cmd, asJSON, func(show func(endpoint.Status)) (*endpoint.Receipt, error) {
					return d.Run(cmd.Context(), r, show)
				})
			})
		},
	}
	c.Flags().StringVar(&limit, "limit", "", "take at most this `limit` of the line: 500K, 10M, 60%, 1M@Mon-Fri/8-18")
	c.Flags().BoolVar(&allBlocks, "all-blocks", false, "back up also what the file systems call free")
	c.Flags().BoolVar(&asJSON, "json", false, "print the receipt as JSON")
	return c
}

func newBackups(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "backups [VM]", Short: "List your backups, of all your machines or of one VM", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				lines, err := backupsOf(cmd.Context(), d, args)
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), lines)
				}
				return printLines(cmd.OutOrStdout(), lines)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// backupsOf returns the named line of backups, or all.
func backupsOf(ctx context.Context, d door, names []string) ([]api.BackupLine, error) {
	if len(names) == 0 {
		return d.Backups(ctx)
	}
	l, err := d.BackupsOf(ctx, names[0])
	return []api.BackupLine{l}, err
}

func printLines(w io.Writer, lines []api.BackupLine) error {
	for i, l := range lines {
		if i > 0 {
			printLine(w, "")
		}
		printLine(w, "VM %s of %s on %s, %s, %s (%s)", l.Name, l.Image, l.DeviceName, count(l.Count, "point")+encrypted(l), progress.Bytes(l.Bytes), l.ID)
		var rows [][]string
		for _, p := range l.Points {
			rows = append(rows, []string{p.Point.String(), p.Created.Local().Format("2006-01-02 15:04"), p.Version.String(),
				consistencies[p.Consistency], verified(p), p.Note})
		}
		if err := cli.Table(w, []string{"POINT", "MADE", "VERSION", "DISKS", "CHECKED", "NOTE"}, rows); err != nil {
			return err
		}
	}
	return nil
}

// encrypted says of a line whether its newest point is encrypted.
func encrypted(l api.BackupLine) string {
	if n := len(l.Points); n == 0 || !slices.ContainsFunc(l.Points[n-1].Disks, func(d api.DiskInfo) bool { return len(d.Sealed) > 0 }) {
		return ""
	}
	return ", encrypted"
}

var consistencies = map[image.Consistency]string{
	image.Stopped: "VM was off", image.Quiesced: "VM was running, in order", image.CrashConsistent: "VM was running",
}

func verified(p api.BackupPoint) string {
	switch {
	case p.Damaged != "":
		return "DAMAGED: " + p.Damaged
	case p.Verified.IsZero():
		return "-"
	}
	return p.Verified.Local().Format("2006-01-02")
}

func newRestore(o *options) *cobra.Command {
	var f transferFlags
	var as, identity string
	var inPlace bool
	c := &cobra.Command{
		Use: "restore [VM[@POINT]]", Short: "Bring a VM back from a point of its backups", Args: cobra.MaximumNArgs(1),
		Long: `Makes a new VM from a point of the backups of a VM, on this machine or on another one of yours. What the
image was published with comes from USB media, discs and other disks that are here, as with "download";
only what is nowhere else comes over the line. Every block is checked. VM is the name of the VM or the
id of its backups, as "backups" shows them; without it, the only one. Without POINT, the newest.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r := endpoint.Request{Kind: endpoint.Restore, VM: as, InPlace: inPlace}
			var err error
			if r.From, r.Point, err = parsePoint(optional(args)); err != nil {
				return err
			}
			return o.with(cmd.Context(), func(d door) error {
				return lend(cmd, d, identity, func(d door) error { return f.run(cmd, d, r) })
			})
		},
	}
	f.add(c, false)
	c.Flags().BoolVar(&f.plan, "plan", false, "print what would be done, and do nothing")
	c.Flags().StringVar(&identity, "identity", "", "open encrypted backups with the keys in this `file`, which are not kept; -: those on stdin")
	c.Flags().StringVar(&as, "as", "", "`name` of the VM; that of the VM which was backed up without it")
	c.Flags().BoolVar(&inPlace, "in-place", false, "replace the present disks of the VM, which are kept for rollback")
	return c
}

// parsePoint reads VM, VM@POINT or @POINT.
func parsePoint(text string) (vm string, point image.Version, err error) {
	vm, number, ok := strings.Cut(text, "@")
	if !ok {
		return vm, 0, nil
	}
	if point, err = image.ParseVersion(number); err != nil {
		return "", 0, cli.UsageError("point %q: want a number from 1 upwards", number)
	}
	return vm, point, nil
}

func printBackup(w io.Writer, r *endpoint.Receipt) {
	if r.Nothing != "" {
		printLine(w, "%s", r.Nothing)
	} else {
		printLine(w, "VM %s is backed up: point %d, %s", r.VM, r.Point.Point, consistencies[r.Point.Consistency])
	}
	for _, d := range r.Point.Disks {
		if !d.Layer.IsZero() {
			printLine(w, "  %s disk: %s written to, %s to send%s", d.Role, count(d.Read, "block"), progress.Bytes(d.Bytes), freed(d.Freed))
		}
		for _, why := range d.Kept {
			printLine(w, "  %s disk, with its free space: %s", d.Role, why)
		}
	}
	printLine(w, "  %s over the line in all, %v", progress.Bytes(r.Wire), (time.Duration(r.Seconds*1000) * time.Millisecond).Round(10*time.Millisecond))
	if n := len(r.Point.Recipients); n > 0 {
		printLine(w, "  encrypted for %s", strings.Join(r.Point.Recipients, ", "))
	}
	for _, n := range r.Notes {
		printLine(w, "  note: %s", n)
	}
}

func freed(n int64) string {
	if n == 0 {
		return ""
	}
	return ", without " + progress.Bytes(n) + " that are free"
}
