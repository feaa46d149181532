// Command vhd-util makes, looks at and changes VHD files, with the subcommands and options of XenServer's tool of that name; see
// "vhd-util --help" and docs/vhd-util.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/internal/problem"
	"disksync/internal/release"
)

func main() { os.Exit(run()) }

// run runs the command line and returns the exit status. The first interrupt ends the work in order; a second one ends the
// process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop()
	}()
	started := false
	root := newRoot(&started)
	err := root.ExecuteContext(ctx)
	if err != nil && !started {
		err = usage("%v", err) // of the parser's: nothing of ours has run
	}
	return int(problem.Report(os.Stderr, root.Name(), explain(err)))
}

const about = `Makes, looks at and changes VHD files: fixed, dynamic and differencing disks, and chains of them.

The commands of the first group are those of XenServer's vhd-util, with its options and output. Sizes
are in MiB unless said otherwise. Parents are looked for beside their children, in the folders that
--parents names, and, VHDs with the right uuid only, where the children say they are.

A new file gets its name when it is complete, and never takes the place of a file that holds anything.
Changes in place survive a crash at any moment.

Exit status: 0 done, 130 interrupted, else an errno value: 2 a file or parent is not there, 5 an
input/output error, 16 in use or needed by another disk, 17 exists already, 22 wrong usage or a damaged
disk, 28 no space, 34 behind the end of the disk, 95 not supported.`

// newRoot makes the command tree, which sets started when a command begins.
func newRoot(started *bool) *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use: "vhd-util", Short: "Makes, looks at and changes VHD files", Long: about, Version: release.Version,
		SilenceUsage: true, SilenceErrors: true, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no command %q", args[0])
			}
			return cmd.Help()
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "help [command]", Short: "Help about any command", RunE: func(cmd *cobra.Command, args []string) error {
		c, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return usage("there is no command %q", args[0])
		}
		c.InitDefaultHelpFlag()
		return c.Help()
	}})
	f := root.PersistentFlags()
	f.StringArrayVar(&o.parents, "parents", nil, "another `folder` to look for parents in; may be given again")
	f.Bool("debug", false, "does nothing; XenServer's scripts give it")
	root.AddGroup(&cobra.Group{ID: original, Title: "Commands of XenServer's vhd-util:"}, &cobra.Group{ID: ours, Title: "More commands:"})
	root.SetHelpCommandGroupID(ours)
	root.AddCommand(in(original, newCreate(), newSnapshot(o), newQuery(o), newRead(o), newSet(), newCheck(o), newRepair(), newResize(o),
		newFill(o), newCoalesce(o), newModify(o), newScan(o), newRevert(), newCopy(o))...)
	root.AddCommand(in(ours, newConvert(o), newDiff(o), newMap(o), newInfo(o), newServe(o), newMount(o))...)
	for _, c := range root.Commands() {
		run := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	return root
}

const original, ours = "original", "ours"

func in(group string, commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		c.GroupID = group
		if c.Args == nil {
			c.Args = cobra.NoArgs
		}
	}
	return commands
}
