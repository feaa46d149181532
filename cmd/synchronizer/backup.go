package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/syncclient"
)

func newBackup(o *options) *cobra.Command {
	return cli.Group("backup", "Look after the backups of users' VMs",
		newBackupList(o), newBackupShow(o), newBackupDelete(o), newBackupPrune(o), newBackupVerify(o))
}

// lineState says in a word how a line is. A backup is overdue when it is twice as old as the policy wants one.
func lineState(l api.BackupLine, now time.Time) string {
	overdue := time.Duration(2*l.Every) * time.Minute
	switch {
	case l.Damaged > 0:
		return "damaged"
	case len(l.Points) == 0 && l.Every > 0:
		return "overdue"
	case len(l.Points) == 0:
		return "empty"
	case l.Every > 0 && now.Sub(l.Points[len(l.Points)-1].Created) > overdue:
		return "overdue"
	}
	return "good"
}

func newBackupList(o *options) *cobra.Command {
	var asJSON, overdue bool
	c := &cobra.Command{
		Use: "list", Short: "List the VMs that there are backups of", Args: cobra.NoArgs,
		Long: `Lists the VMs that there are backups of, with the newest one of each. One is overdue when it is twice as old
as the policy of its image wants backups to be made.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				lines, err := c.AllBackups(cmd.Context())
				if err != nil {
					return err
				}
				now := time.Now()
				if overdue {
					lines = slices.DeleteFunc(lines, func(l api.BackupLine) bool { return lineState(l, now) != "overdue" })
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), lines)
				}
				var rows [][]string
				for _, l := range lines {
					newest := "-"
					if len(l.Points) > 0 {
						newest = localTime(l.Points[len(l.Points)-1].Created)
					}
					rows = append(rows, []string{
						l.User + "/" + l.Name, l.Image, l.DeviceName, strconv.Itoa(l.Count), newest, progress.Bytes(l.Bytes), lineState(l, now), l.ID.String(),
					})
				}
				return cli.Table(cmd.OutOrStdout(), []string{"VM", "IMAGE", "DEVICE", "POINTS", "NEWEST", "BYTES", "STATE", "LINE"}, rows)
			})
		},
	}
	c.Flags().BoolVar(&overdue, "overdue", false, "only those whose backups are overdue")
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

// findLine returns the line that somebody names: its id, or USER/VM.
func findLine(ctx context.Context, c *syncclient.Client, name string) (api.BackupLine, error) {
	if id, err := image.ParseUUID(name); err == nil {
		return c.Backup(ctx, id)
	}
	user, _, ok := strings.Cut(name, "/")
	if !ok {
		return api.BackupLine{}, cli.UsageError("%q: name the backups of a VM with USER/VM or with the id of the line", name)
	}
	all, err := c.BackupsOf(ctx, user)
	if err != nil {
		return api.BackupLine{}, err
	}
	all = slices.DeleteFunc(all, func(l api.BackupLine) bool { return l.User+"/"+l.Name != name })
	switch len(all) {
	case 0:
		return api.BackupLine{}, &api.Error{Code: api.CodeNotFound, Message: "there are no backups of " + name}
	case 1:
		return c.Backup(ctx, all[0].ID)
	}
	return api.BackupLine{}, problem.New("DS-CHOOSE", problem.Usage, nil, fmt.Sprintf("there are %d VMs called %s", len(all), name), "",
		"name one with the id of its line, as `synchronizer backup list` shows it")
}

func newBackupShow(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show USER/VM", Short: "Show the backups of a VM", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				l, err := findLine(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), l)
				}
				return printPoints(cmd.OutOrStdout(), l)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func printPoints(w io.Writer, l api.BackupLine) error {
	fmt.Fprintf(w, "%s/%s, made from %s, %s mode, last from %s, %s (line %s)\n", l.User, l.Name, l.Image, l.Mode,
		problem.Printable(l.DeviceName), progress.Bytes(l.Bytes), l.ID)
	if n := len(l.Points); n > 0 {
		for _, d := range l.Points[n-1].Disks {
			if len(d.Sealed) > 0 {
				fmt.Fprintf(w, "the newest %s disk is encrypted for %s\n", d.Role, strings.Join(d.Sealed, ", "))
			}
		}
	}
	var rows [][]string
	for _, p := range l.Points {
		var size int64
		for _, d := range p.Disks {
			size += d.Size
		}
		verified := "not yet"
		if !p.Verified.IsZero() {
			verified = localTime(p.Verified)
		}
		state := "good"
		if p.Damaged != "" {
			state = "damaged: " + problem.Printable(p.Damaged)
		}
		rows = append(rows, []string{
			p.Point.String(), localTime(p.Created), p.Version.String(), string(p.Consistency), progress.Bytes(size), verified, state, problem.Printable(p.Note),
		})
	}
	return cli.Table(w, []string{"POINT", "CREATED", "VERSION", "CONSISTENCY", "DISKS", "VERIFIED", "STATE", "NOTE"}, rows)
}

func newBackupDelete(o *options) *cobra.Command {
	var yes bool
	var points []uint
	c := &cobra.Command{
		Use: "delete USER/VM", Short: "Delete backups of a VM, all or with --point some", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			what := "all backups of " + args[0]
			if len(points) > 0 {
				what = fmt.Sprintf("%d backups of %s", len(points), args[0])
			}
			if !yes {
				ok, err := cli.Confirm(cmd.Context(), "Delete "+what+"? They cannot be brought back.", "give --yes")
				if err == nil && !ok {
					err = problem.New("DS-NOT-CONFIRMED", problem.Failure, nil, "not deleted", "the backups are as they were", "")
				}
				if err != nil {
					return err
				}
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				l, err := findLine(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if len(points) == 0 {
					return c.DeleteBackup(cmd.Context(), l.ID)
				}
				for _, n := range points {
					if err := c.DeletePoint(cmd.Context(), l.ID, image.Version(n)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().UintSliceVar(&points, "point", nil, "`number` of a backup; may be given several times")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// pruned is what "backup prune" did to one line.
type pruned struct {
	Line    image.UUID      `json:"line"`
	User    string          `json:"user"`
	Name    string          `json:"name"`
	Removed []image.Version `json:"removed"`
}

func newBackupPrune(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "prune [USER/VM]…", Short: "Delete backups that the policies do not keep, at once", Args: cobra.ArbitraryArgs,
		Long: `Deletes the backups that the policies of the images do not keep, of the named VMs or of all. The Synchronizer
does so by itself after each backup and every hour.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				lines, err := findLines(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				out := []pruned{}
				for _, l := range lines {
					removed, err := c.PruneBackup(cmd.Context(), l.ID)
					if err != nil {
						return err
					}
					out = append(out, pruned{l.ID, l.User, l.Name, removed})
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), out)
				}
				for _, p := range out {
					if len(p.Removed) > 0 {
						fmt.Fprintf(cmd.OutOrStdout(), "%s/%s: removed %s\n", p.User, p.Name, strings.Trim(fmt.Sprint(p.Removed), "[]"))
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// findLines returns the named lines, or all.
func findLines(ctx context.Context, c *syncclient.Client, names []string) ([]api.BackupLine, error) {
	if len(names) == 0 {
		return c.AllBackups(ctx)
	}
	var out []api.BackupLine
	for _, name := range names {
		l, err := findLine(ctx, c, name)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func newBackupVerify(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "verify [USER/VM]…", Short: "Read backups back and compare every block", Args: cobra.ArbitraryArgs,
		Long: `Has the Synchronizer read back all that the backups of the named VMs, or of all, need, and compare every block
with its digest. It does so by itself once in 30 days. It goes on when this command is interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				lines, err := verifyLines(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				if asJSON {
					err = cli.JSON(cmd.OutOrStdout(), lines)
				} else {
					for _, l := range lines {
						if err == nil {
							err = printPoints(cmd.OutOrStdout(), l)
						}
					}
				}
				if err != nil {
					return err
				}
				return damagedIn(lines)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// verifyLines has lines verified, waits until that is done, and returns what they are then.
func verifyLines(ctx context.Context, c *syncclient.Client, names []string) ([]api.BackupLine, error) {
	lines, err := findLines(ctx, c, names)
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if err := c.VerifyBackup(ctx, l.ID); err != nil {
			return nil, err
		}
	}
	meter := progress.New(os.Stderr)
	defer meter.Done()
	tick := time.NewTicker(squashPoll)
	defer tick.Stop()
	for i := range lines {
		for {
			if lines[i], err = c.Backup(ctx, lines[i].ID); err != nil {
				return nil, err
			}
			if !lines[i].Verifying {
				break
			}
			meter.Show("verifying", int64(i), int64(len(lines)), lines[i].User+"/"+lines[i].Name)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
	return lines, nil
}

// damagedIn returns an error when some backup of the lines is damaged.
func damagedIn(lines []api.BackupLine) error {
	n := 0
	for _, l := range lines {
		n += l.Damaged
	}
	if n == 0 {
		return nil
	}
	return problem.New("DS-BACKUP-DAMAGED", problem.Damaged, nil, fmt.Sprintf("%d backups are damaged", n),
		"nothing is deleted; what is not named as damaged is good",
		"check the Synchronizer's disk, bring the damaged files back from a copy of the data folder, and verify again")
}
