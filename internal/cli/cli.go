// Package cli has what the command-line programs of the project do alike: running a command tree, asking for passwords,
// printing tables and JSON.
package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"disksync/internal/problem"
)

// Run runs the command tree with the arguments of the process and returns the exit status. The first interrupt ends the
// command's context; a second one ends the process.
func Run(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // from now on signals act as usual
	}()
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SilenceUsage, root.SilenceErrors = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(newHelp(root))
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		// It was cobra that refused: nothing of ours has run.
		err = UsageError("%v", err)
	}
	return int(problem.Report(os.Stderr, root.Name(), err))
}

// newHelp is cobra's own help command, but for words that are no command: those are wrong usage.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, words []string) error {
			c, rest, err := root.Find(words)
			if err != nil || len(rest) > 0 {
				return UsageError("there is no command %q", strings.Join(words, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// Group makes a command that only has subcommands.
func Group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return UsageError("%s needs a subcommand", cmd.CommandPath())
		},
	}
	c.AddCommand(subs...)
	return c
}

// UsageError is an error of the command line.
func UsageError(format string, args ...any) error {
	return problem.New("DS-USAGE", problem.Usage, nil, fmt.Sprintf(format, args...), "", "see --help")
}

// JSON prints v, indented.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Table prints rows in columns below a heading.
func Table(w io.Writer, heading []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		for i := range row {
			row[i] = problem.Printable(row[i])
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}
