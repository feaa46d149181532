package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/problem"
)

// TestMain makes a small program of the package's parts, for the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tool": func() {
		// Whoever runs the tests may sit at a terminal; the programs of the scripts do not.
		_, _ = syscall.Setsid()
		os.Exit(cli.Run(newTool()))
	}})
}

func newTool() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "A tool", Version: "1"}
	password := &cobra.Command{
		Use: "password", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			stdin, _ := cmd.Flags().GetBool("password-stdin")
			p, err := cli.Password(cmd.Context(), stdin, false, "Password: ")
			if err == nil {
				cmd.Printf("%q\n", p)
			}
			return err
		},
	}
	password.Flags().Bool("password-stdin", false, "")
	fail := &cobra.Command{
		Use: "fail [WORD]", Args: cobra.MaximumNArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New(args[0])
			}
			return problem.New("DS-X", problem.Damaged, nil, "it is broken", "all else is well", "mend it")
		},
	}
	ask := &cobra.Command{
		Use: "ask", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			ok, err := cli.Confirm(cmd.Context(), "Sure?", "give --yes")
			cmd.Println(ok)
			return err
		},
	}
	wait := &cobra.Command{
		Use: "wait", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = p.Signal(os.Interrupt)
			}
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			return cmd.Context().Err()
		},
	}
	root.AddCommand(password, fail, ask, wait, cli.Group("group", "A group", &cobra.Command{Use: "do", Args: cobra.NoArgs, Run: func(*cobra.Command, []string) {}}))
	return root
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits STATUS PROGRAM ARG…: the program ends with the status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s: exit status %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	rows := [][]string{{"win7", "1"}, {"a\tb\x1b[2J\nc", "22"}, {"", "3"}}
	if err := cli.Table(&out, []string{"NAME", "N"}, rows); err != nil {
		t.Fatal(err)
	}
	const want = "NAME        N\nwin7        1\na?b?[2J; c  22\n            3\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestJSON(t *testing.T) {
	var out strings.Builder
	if err := cli.JSON(&out, map[string]any{"a": "<b>", "c": []int{}}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"a\": \"<b>\",\n  \"c\": []\n}\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if err := cli.JSON(&out, func() {}); err == nil {
		t.Error("a function has no JSON")
	}
}
