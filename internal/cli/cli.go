// Package cli has what the command-line programs of the project do alike: running a command tree, asking for passwords,
// printing tables and JSON.
package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		// It was cobra that refused: nothing of ours has run.
		err = UsageError("%v", err)
	}
	return int(problem.Report(os.Stderr, root.Name(), err))
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
			row[i] = printable(row[i])
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// printable keeps text from elsewhere from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// maxSecret bounds what is read as a password.
const maxSecret = 64 << 10

// Password reads a password: the first line of stdin when fromStdin is set, else from the terminal, twice when confirm is
// set.
func Password(fromStdin, confirm bool, prompt string) (string, error) {
	if fromStdin {
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, maxSecret)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read password: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", UsageError("there is no password on stdin")
		}
		return line, nil
	}
	p, err := readSecret(prompt)
	if err != nil || !confirm {
		return p, err
	}
	again, err := readSecret("Again: ")
	if err == nil && again != p {
		err = UsageError("the two passwords differ")
	}
	return p, err
}

func readSecret(prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", UsageError("there is no terminal to ask for the password; give it with --password-stdin")
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return string(b), nil
}

// Confirm asks a question on the terminal and returns whether the answer was yes. Without a terminal it returns an error that
// says what to give instead.
func Confirm(question, instead string) (bool, error) {
	answer, err := Ask(question+" [y/N] ", instead)
	return strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"), err
}

// Ask reads a line from the terminal.
func Ask(prompt, instead string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", UsageError("there is no terminal to ask; %s", instead)
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	line, err := bufio.NewReader(io.LimitReader(tty, maxSecret)).ReadString('\n')
	if err != nil && line == "" {
		return "", fmt.Errorf("read answer: %w", err)
	}
	return strings.TrimSpace(line), nil
}
