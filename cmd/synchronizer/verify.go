package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/media"
	"disksync/syncclient"
)

func newVerifyMedium(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "verify FOLDER|IMAGE", Short: "Read a medium back and check every block", Args: cobra.ExactArgs(1),
		Long: `Reads everything of ours on a stick, in an image of a disc, or on a disc, past the system's memory where
that is possible, and checks every block. No Synchronizer is needed, but for encrypted files and the
signatures of manifests.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			meter := progress.New(os.Stderr)
			defer meter.Done()
			vo := media.VerifyOptions{Path: args[0], Progress: func(stage string, done, total int64) { meter.Show(stage, done, total, "") }}
			err := o.with(cmd.Context(), func(c *syncclient.Client) error { return media.Secrets(cmd.Context(), c, &vo) })
			if p := problem.Of(err); p != nil && p.Code == "DS-NO-DATA" && o.data == "" {
				err = nil // there is no Synchronizer here, and nobody asked for one
			}
			if err != nil {
				return err
			}
			v, err := media.Verify(cmd.Context(), vo)
			meter.Done()
			return errors.Join(printVerdict(cmd.OutOrStdout(), v, asJSON), err)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the verdict as JSON")
	return c
}

func printVerdict(out io.Writer, v media.Verdict, asJSON bool) error {
	if asJSON {
		return cli.JSON(out, v)
	}
	for _, f := range v.Files {
		did := "good"
		if f.Fault != "" {
			did = string(f.Fault) + ": " + f.Why
		}
		blocks := ""
		if f.Blocks+f.Bad > 0 {
			blocks = fmt.Sprintf(", %d blocks", f.Blocks)
		}
		if f.Bad > 0 {
			blocks += fmt.Sprintf(", %d bad", f.Bad)
		}
		fmt.Fprintf(out, "%s  %s  %s%s\n", problem.Printable(f.Path), progress.Bytes(f.Length), did, blocks)
	}
	switch {
	case v.Memory > 0:
		fmt.Fprintf(out, "note: %s may have come from this machine's memory and not from the medium\n", progress.Bytes(v.Memory))
	case v.Memory < 0:
		fmt.Fprintln(out, "note: the system does not say whether what was read came from the medium")
	}
	for _, n := range v.Notes {
		fmt.Fprintf(out, "note: %s\n", problem.Printable(n))
	}
	return nil
}
