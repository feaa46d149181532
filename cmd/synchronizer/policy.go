package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"disksync/agefile"
	"disksync/api"
	"disksync/internal/cli"
	"disksync/internal/progress"
	"disksync/syncclient"
)

func newPolicy(o *options) *cobra.Command {
	var factor, saving string
	var direct, off, byDefault, asJSON bool
	var backup backupFlags
	c := &cobra.Command{
		Use: "policy IMAGE", Short: "Show or change which layers the Synchronizer makes by itself, and which backups are made and kept", Args: cobra.ExactArgs(1),
		Long: `Shows which layers the Synchronizer makes by itself when a version was published: full images when the way
from nothing gets long, and direct layers from the versions that "media write" has put on media. It shows too
when endpoints make backups of VMs of the image, and which of these stay. The flags change it for this image.

Of backups the newest of each of the last so many hours, days, weeks and months that have any stay, and always the
newest of all and those of the last hour; with no --keep flag every one.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				p, err := c.Policy(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				was := p
				switch {
				case off && byDefault:
					return cli.UsageError("--off and --default say different things")
				case off:
					p = api.Policy{LeastSaving: p.LeastSaving, Backup: p.Backup}
				case byDefault:
					p = api.DefaultPolicy()
				}
				if factor != "" {
					p.FullFactor, err = strconv.ParseFloat(factor, 64)
					if err != nil || p.FullFactor != 0 && !(p.FullFactor >= 1 && p.FullFactor <= 1000) {
						return cli.UsageError("--full-factor %s: want 0 or a number from 1 to 1000", factor)
					}
				}
				if saving != "" {
					mib, err := strconv.ParseUint(saving, 10, 32)
					if err != nil {
						return cli.UsageError("--least-saving %s: want a number of MiB", saving)
					}
					p.LeastSaving = int64(mib) << 20
				}
				if cmd.Flags().Changed("direct") {
					p.Direct = direct
				}
				if err := backup.apply(cmd, &p); err != nil {
					return err
				}
				if p != was {
					if err := c.SetPolicy(cmd.Context(), args[0], p); err != nil {
						return err
					}
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), p)
				}
				printPolicy(cmd.OutOrStdout(), args[0], p)
				return nil
			})
		},
	}
	c.Flags().StringVar(&factor, "full-factor", "", "make a full image when the way from nothing is more than so many `times` as large; 0: never")
	c.Flags().BoolVar(&direct, "direct", false, "make direct layers from the versions on media; --direct=false does not")
	c.Flags().StringVar(&saving, "least-saving", "", "so many `MiB` must a layer save somebody")
	backup.add(c)
	c.Flags().BoolVar(&off, "off", false, "make no layers by itself")
	c.Flags().BoolVar(&byDefault, "default", false, "what holds for an image of which nothing was said")
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func printPolicy(w io.Writer, name string, p api.Policy) {
	if p.FullFactor == 0 && !p.Direct {
		fmt.Fprintf(w, "%s: off, no layers are made by themselves\n", name)
	} else {
		full, direct := "never", "no"
		if p.FullFactor > 0 {
			full = fmt.Sprintf("when the way from nothing is more than %v times as large", p.FullFactor)
		}
		if p.Direct {
			direct = "from the versions that were written to media"
		}
		fmt.Fprintf(w, "%s\n  full images:   %s\n  direct layers: %s\n  a layer must save at least %s\n", name, full, direct, progress.Bytes(p.LeastSaving))
	}
	made, stay := describeBackups(p.Backup)
	fmt.Fprintf(w, "  backups:       %s\n", made)
	if stay != "" {
		fmt.Fprintf(w, "  of these stay: %s\n", stay)
	}
	if b := p.Backup; b != nil && b.AllBlocks {
		fmt.Fprintln(w, "  free space:    backed up too")
	}
	if b := p.Backup; b != nil && (b.Encrypt || len(b.Recipients) > 0) {
		when := "where the user has a key"
		if b.Encrypt {
			when = "always"
		}
		fmt.Fprintf(w, "  encrypted:     %s, for %s\n", when, strings.Join(append([]string{"the user"}, b.Recipients...), ", "))
	}
}

// describeBackups says when backups are made, and which stay.
func describeBackups(p *api.BackupPolicy) (made, stay string) {
	if p == nil {
		return "by hand", "all"
	}
	switch every := span(p.Every); {
	case p.Every == 0 && !p.Manual:
		made = "off"
	case p.Every == 0:
		made = "by hand"
	case p.Manual:
		made = "every " + every + ", and by hand"
	default:
		made = "every " + every
	}
	var kept []string
	for _, k := range []struct {
		n    int
		what string
	}{{p.Hourly, "hourly"}, {p.Daily, "daily"}, {p.Weekly, "weekly"}, {p.Monthly, "monthly"}} {
		if k.n > 0 {
			kept = append(kept, fmt.Sprintf("%d %s", k.n, k.what))
		}
	}
	if len(kept) == 0 {
		return made, "all"
	}
	return made, strings.Join(kept, ", ")
}

// span writes minutes for people.
func span(minutes int) string {
	switch {
	case minutes%1440 == 0 && minutes > 0:
		return fmt.Sprintf("%d d", minutes/1440)
	case minutes%60 == 0:
		return fmt.Sprintf("%d h", minutes/60)
	}
	return fmt.Sprintf("%d min", minutes)
}

// backupFlags are the flags of "image policy" about backups.
type backupFlags struct {
	every  string
	manual bool
	keep   [4]int

	encrypt    bool
	recipients []string
	allBlocks  bool
}

func (b *backupFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&b.every, "backup-every", "", "endpoints make a backup after each such `time`: 30m, 4h, 1d; 0: not by themselves")
	c.Flags().BoolVar(&b.manual, "backup-manual", true, "users may make backups by hand; --backup-manual=false: they may not")
	c.Flags().BoolVar(&b.encrypt, "backup-encrypt", false, "take encrypted backups only; --backup-encrypt=false: others too")
	c.Flags().StringSliceVar(&b.recipients, "backup-recipient", nil, "encrypted backups must be readable by this escrow `recipient`, age1…; may be repeated; '': by the user alone")
	c.Flags().BoolVar(&b.allBlocks, "backup-all-blocks", false, "back up also what the file systems call free; --backup-all-blocks=false: leave it out")
	for i, what := range []string{"hourly", "daily", "weekly", "monthly"} {
		c.Flags().IntVar(&b.keep[i], "keep-"+what, 0, "so `many` "+what+" backups stay")
	}
}

// apply changes what was named on the command line.
func (b *backupFlags) apply(cmd *cobra.Command, p *api.Policy) error {
	next := api.BackupPolicy{Manual: true}
	if p.Backup != nil {
		next = *p.Backup
	}
	changed := false
	given := func(name string) bool {
		yes := cmd.Flags().Changed(name)
		changed = changed || yes
		return yes
	}
	if given("backup-every") {
		d, err := parseSpan(b.every)
		if err != nil || d < 0 || d > 366*24*time.Hour || d != 0 && d < 5*time.Minute {
			return cli.UsageError("--backup-every %s: want 0 or a time from 5m to 366d", b.every)
		}
		next.Every = int(d / time.Minute)
	}
	if given("backup-manual") {
		next.Manual = b.manual
	}
	for i, n := range []*int{&next.Hourly, &next.Daily, &next.Weekly, &next.Monthly} {
		if given([]string{"keep-hourly", "keep-daily", "keep-weekly", "keep-monthly"}[i]) {
			if *n = b.keep[i]; *n < 0 || *n > 10000 {
				return cli.UsageError("of backups 0 to 10000 can be kept, not %d", *n)
			}
		}
	}
	if given("backup-encrypt") {
		next.Encrypt = b.encrypt
	}
	if given("backup-recipient") {
		next.Recipients = slices.DeleteFunc(b.recipients, func(r string) bool { return r == "" })
		for _, r := range next.Recipients {
			if err := agefile.CheckRecipient(r); err != nil {
				return cli.UsageError("--backup-recipient %s: want the public half of a key as age-keygen prints it, age1…", r)
			}
		}
	}
	if given("backup-all-blocks") {
		next.AllBlocks = b.allBlocks
	}
	if changed {
		p.Backup = &next
	}
	return nil
}

// parseSpan reads a time, which may be in days.
func parseSpan(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}
