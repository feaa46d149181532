package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/syncclient"
)

func newRegister(o *options) *cobra.Command {
	var fingerprint string
	var replace, asJSON bool
	c := &cobra.Command{
		Use: "register URL", Short: "Make a Synchronizer this machine's own", Args: cobra.ExactArgs(1),
		Long: `Registers with the Synchronizer at URL (https://host:port). Its fingerprint is shown for you to compare
with the administrator's, unless it is given with --fingerprint. From then on this machine talks to the
holder of that key and to nobody else.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				f, err := chooseFingerprint(cmd, d, args[0], fingerprint)
				if err != nil {
					return err
				}
				r, err := d.Register(cmd.Context(), args[0], f, replace)
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), r)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "registered with %s\n", r.URL)
				return nil
			})
		},
	}
	c.Flags().StringVar(&fingerprint, "fingerprint", "", "`fingerprint` that the server must have; then nothing is asked")
	c.Flags().BoolVar(&replace, "replace", false, "in place of another Synchronizer, or of another key of the same one")
	c.Flags().BoolVar(&asJSON, "json", false, "print the registration as JSON")
	return c
}

func chooseFingerprint(cmd *cobra.Command, d door, url, given string) (syncclient.Fingerprint, error) {
	if given != "" {
		f, err := syncclient.ParseFingerprint(given)
		if err != nil {
			return f, cli.UsageError("%v", err)
		}
		return f, nil
	}
	f, err := d.Probe(cmd.Context(), url)
	if err != nil {
		return f, err
	}
	fmt.Fprintf(os.Stderr, "The server at %s has the fingerprint\n\n  %s\n\n", url, f)
	ok, err := cli.Confirm(cmd.Context(), "Is it the one that the administrator gave you?", "give it with --fingerprint")
	if err == nil && !ok {
		err = problem.New("DS-NOT-CONFIRMED", problem.Untrusted, nil, "not registered", "nothing was changed", "ask the administrator for the fingerprint")
	}
	return f, err
}

func newLogin(o *options) *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "login USER", Short: "Log in to the Synchronizer", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := cli.Password(cmd.Context(), stdin, false, "Password for "+args[0]+": ")
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(d door) error {
				if err := d.Login(cmd.Context(), args[0], p); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "logged in as %s\n", args[0])
				return nil
			})
		},
	}
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from stdin")
	return c
}

func newLogout(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Log out", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error { return d.Logout(cmd.Context()) })
		},
	}
}

func newList(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the images that are assigned to you", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				offers, err := d.Offers(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), offers)
				}
				var rows [][]string
				for i, f := range offers {
					v := f.Version.String()
					if f.Pinned {
						v += " (pinned)"
					}
					rows = append(rows, []string{strconv.Itoa(i + 1), f.Image, v, string(f.Mode), progress.Bytes(f.Size),
						f.Created.Local().Format("2006-01-02 15:04"), f.Note})
				}
				return cli.Table(cmd.OutOrStdout(), []string{"#", "IMAGE", "VERSION", "MODE", "DISKS", "PUBLISHED", "NOTE"}, rows)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}
