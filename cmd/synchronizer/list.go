package main

import (
	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/syncclient"
)

// listCommand makes a command that prints a list as a table or, with --json, as it is.
func listCommand[T any](o *options, use, short string, args cobra.PositionalArgs,
	get func(cmd *cobra.Command, c *syncclient.Client, args []string) ([]T, error), heading []string, row func(T) []string,
) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				list, err := get(cmd, c, args)
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), list)
				}
				var rows [][]string
				for _, v := range list {
					rows = append(rows, row(v))
				}
				return cli.Table(cmd.OutOrStdout(), heading, rows)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// doCommand makes a command that does one thing and prints nothing.
func doCommand(o *options, use, short string, n int, do func(cmd *cobra.Command, c *syncclient.Client, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(n),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error { return do(cmd, c, args) })
		},
	}
}
