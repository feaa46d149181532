package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"disksync/cache"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
)

// transferFlags are the flags of commands that bring blocks here.
type transferFlags struct {
	media        []string
	plan, asJSON bool
	version      string
	limit        string
}

func (f *transferFlags) add(c *cobra.Command, withVersion bool) {
	c.Flags().StringArrayVar(&f.media, "media", nil, "also look in this `place`: a folder, a device or an image file, as on a stick (dvd:PLACE: as on a disc); may be repeated")
	c.Flags().StringVar(&f.limit, "limit", "", "take at most this `limit` of the line: 500K, 10M, 60%, 1M@Mon-Fri/8-18")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print the receipt, or with --plan the plan, as JSON")
	if withVersion {
		c.Flags().BoolVar(&f.plan, "plan", false, "print what would be done, and do nothing")
		c.Flags().StringVar(&f.version, "version", "", "this `version`, not the one that is meant for you")
	}
}

// run plans or runs a request and prints the outcome.
func (f *transferFlags) run(cmd *cobra.Command, d door, r endpoint.Request) error {
	r.Limit = f.limit
	var err error
	if r.Media, err = absolute(f.media); err != nil {
		return err
	}
	if f.version != "" {
		v, err := image.ParseVersion(f.version)
		if err != nil {
			return cli.UsageError("%v", err)
		}
		r.Version = v
	}
	if f.plan {
		p, err := d.Plan(cmd.Context(), r)
		if err != nil {
			return err
		}
		if f.asJSON {
			return cli.JSON(cmd.OutOrStdout(), p)
		}
		printPlan(cmd.OutOrStdout(), p)
		return nil
	}
	return runAndReport(cmd, f.asJSON, func(show func(endpoint.Status)) (*endpoint.Receipt, error) {
		return d.Run(cmd.Context(), r, show)
	})
}

// absolute makes the paths of media absolute: the service does not run where the user stands.
func absolute(media []string) ([]string, error) {
	var out []string
	for _, m := range media {
		kind := ""
		for _, prefix := range []string{"usb:", "dvd:"} {
			if strings.HasPrefix(m, prefix) {
				kind, m = prefix, strings.TrimPrefix(m, prefix)
			}
		}
		dir, err := filepath.Abs(m)
		if err != nil {
			return nil, err
		}
		if st, err := os.Stat(dir); errors.Is(err, fs.ErrPermission) {
			// Whether it is there, the service can say.
		} else if err != nil {
			return nil, problem.New("DS-MEDIA", problem.NotFound, err, "there is no medium at "+m, "nothing was changed", "plug it in, or leave out --media")
		} else if !cache.IsPlace(st) {
			return nil, cli.UsageError("%s is not a folder, a device or an image file", m)
		}
		out = append(out, kind+dir)
	}
	return out, nil
}

// runAndReport shows the progress of an operation and prints its receipt.
func runAndReport(cmd *cobra.Command, asJSON bool, run func(show func(endpoint.Status)) (*endpoint.Receipt, error)) error {
	meter := progress.New(os.Stderr)
	rc, err := run(newDisplay(meter).show)
	meter.Done()
	if rc != nil && asJSON {
		if jsonErr := cli.JSON(cmd.OutOrStdout(), rc); err == nil {
			err = jsonErr
		}
	} else if rc != nil {
		printReceipt(cmd.OutOrStdout(), rc)
	}
	return err
}

func newDownload(o *options) *cobra.Command {
	var f transferFlags
	var as string
	var early bool
	c := &cobra.Command{
		Use: "download [IMAGE]", Short: "Download from Synchronizer: deploy an image as a new VM", Args: cobra.MaximumNArgs(1),
		Long: `Deploys an image that is assigned to you as a new VM. Blocks come from USB media first, then from discs,
and what is missing from the Synchronizer. Every block is checked, whatever it comes from. Interrupt it
whenever you like: the same command goes on from there. Without IMAGE, the only one that is assigned.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				name, err := chooseImage(cmd, d, args)
				if err != nil {
					return err
				}
				return f.run(cmd, d, endpoint.Request{Kind: endpoint.Download, Image: name, VM: as, Early: early})
			})
		},
	}
	f.add(c, true)
	c.Flags().StringVar(&as, "as", "", "`name` of the VM; the image's without it")
	c.Flags().BoolVar(&early, "early", false, "make the VM as soon as it is planned, so that it can run while it is downloaded")
	return c
}

// chooseImage returns the image that was named, the only one that is assigned, or the one that the user picks.
func chooseImage(cmd *cobra.Command, d door, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	offers, err := d.Offers(cmd.Context())
	if err != nil {
		return "", err
	}
	switch len(offers) {
	case 0:
		return "", problem.New("DS-NOT-ASSIGNED", problem.NotFound, nil, "no image is assigned to you", "", "ask the administrator to assign one")
	case 1:
		return offers[0].Image, nil
	}
	for i, f := range offers {
		fmt.Fprintf(os.Stderr, "%3d  %s version %d, %s\n", i+1, problem.Printable(f.Image), f.Version, progress.Bytes(f.Size))
	}
	answer, err := cli.Ask(cmd.Context(), "Which one? ", "name the image")
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(answer)
	if err != nil || n < 1 || n > len(offers) {
		return "", cli.UsageError("%q is not one of them", answer)
	}
	return offers[n-1].Image, nil
}

func newUpdate(o *options) *cobra.Command {
	var f transferFlags
	var replace bool
	c := &cobra.Command{
		Use: "update [VM]", Short: "Bring a VM to the version that is meant for you", Args: cobra.MaximumNArgs(1),
		Long: `Installs another version of a VM's image beside the present one, which stays usable meanwhile and is kept
for "rollback" afterwards. Only what differs is fetched.

A static VM that has changed its disk keeps it: the update is refused unless --replace is given, which
puts the changed disk aside. The user disk of a VM always stays.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				return f.run(cmd, d, endpoint.Request{Kind: endpoint.Update, VM: optional(args), Replace: replace})
			})
		},
	}
	f.add(c, true)
	c.Flags().BoolVar(&replace, "replace", false, "put a changed disk of a static VM aside")
	return c
}

func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func newVerify(o *options) *cobra.Command {
	var f transferFlags
	var repair bool
	c := &cobra.Command{
		Use: "verify [VM]", Short: "Compare a VM's disks with the published version", Args: cobra.MaximumNArgs(1),
		Long: `Reads the installed disks of a VM's version and compares every block with the signed manifest. What the
VM itself has written is not looked at. With --repair, damaged disks are built anew from their good
blocks, media and the Synchronizer.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				kind := endpoint.Verify
				if repair {
					kind = endpoint.Repair
				}
				return f.run(cmd, d, endpoint.Request{Kind: kind, VM: optional(args)})
			})
		},
	}
	f.add(c, false)
	c.Flags().BoolVar(&repair, "repair", false, "get good copies of damaged blocks")
	return c
}

func newStatus(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show operations", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				ops, err := d.Operations(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), ops)
				}
				return printOperations(cmd.OutOrStdout(), ops)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// unfinished finds the operation that a command is about: on the VM that was named, or the only one.
func unfinished(cmd *cobra.Command, d door, vm string) (endpoint.Status, error) {
	ops, err := d.Operations(cmd.Context())
	if err != nil {
		return endpoint.Status{}, err
	}
	var found []endpoint.Status
	for _, s := range ops {
		if s.State != endpoint.Finished && (vm == "" || s.VM == vm || s.ID.String() == vm) {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 0:
		return endpoint.Status{}, problem.New("DS-NO-OPERATION", problem.NotFound, nil, "there is no unfinished operation", "", "`disksyncmgr status` shows all")
	case len(found) > 1 && vm == "":
		return endpoint.Status{}, cli.UsageError("there are %d unfinished operations; name the VM", len(found))
	}
	return found[len(found)-1], nil
}

func newPause(o *options) *cobra.Command {
	return onOperation(o, "pause [VM]", "Stop an operation until it is resumed", func(cmd *cobra.Command, d door, s endpoint.Status) error {
		return d.Pause(cmd.Context(), s.ID)
	})
}

func newResume(o *options) *cobra.Command {
	return onOperation(o, "resume [VM]", "Go on with an operation", func(cmd *cobra.Command, d door, s endpoint.Status) error {
		return runAndReport(cmd, false, func(show func(endpoint.Status)) (*endpoint.Receipt, error) {
			return d.Resume(cmd.Context(), s.ID, show)
		})
	})
}

func newCancel(o *options) *cobra.Command {
	return onOperation(o, "cancel [VM]", "Give up an operation, with what it has built so far", func(cmd *cobra.Command, d door, s endpoint.Status) error {
		return d.Cancel(cmd.Context(), s.ID)
	})
}

func onOperation(o *options, use, short string, do func(cmd *cobra.Command, d door, s endpoint.Status) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				s, err := unfinished(cmd, d, optional(args))
				if err != nil {
					return err
				}
				return do(cmd, d, s)
			})
		},
	}
}
