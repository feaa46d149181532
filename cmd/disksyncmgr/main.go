// Command disksyncmgr is the endpoint: a D-Bus service that brings managed VMs here and keeps them current, and the commands
// of its users; see "disksyncmgr --help".
package main

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/release"
)

func main() { os.Exit(cli.Run(newRoot())) }

const about = `Brings managed VMs from a Synchronizer to this machine, from sticks and discs first, and keeps them
current.

"serve" runs the service. The other commands talk to it over D-Bus; with --standalone they do the
work themselves, in the state folder, where no service runs.

  disksyncmgr register https://HOST:PORT    compare the fingerprint with the administrator's
  disksyncmgr login USER
  disksyncmgr download                      "Download from Synchronizer"
  disksyncmgr run VM; disksyncmgr console VM; disksyncmgr stop VM
  disksyncmgr update VM; disksyncmgr rollback VM; disksyncmgr verify VM
  disksyncmgr backup VM; disksyncmgr restore VM

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not registered, logged in or allowed, 4 not reachable,
5 no space, 6 not trusted, 7 damaged data, 8 not found, 9 in use, 130 interrupted. What was done before
a failure is kept, and the same command goes on from there.`

// memoryGoal makes the collector work harder before the process grows beyond it, in bytes.
const memoryGoal = 176 << 20

// garbageShare is how much garbage there may be beside what is in use, in percent. Most of that are buffers without pointers, which
// cost the collector next to nothing.
const garbageShare = 40

// saveMemory tunes the collector, unless the environment does.
func saveMemory() {
	debug.SetMemoryLimit(memoryGoal)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbageShare)
	}
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use: "disksyncmgr", Short: "Brings managed VMs to this machine and keeps them current", Long: about, Version: release.Version,
	}
	f := root.PersistentFlags()
	f.StringVar(&o.state, "state", "", "state `folder` (default $DISKSYNCMGR_STATE or "+defaultState+")")
	f.BoolVar(&o.standalone, "standalone", false, "do the work here, without the service")
	f.BoolVar(&o.session, "session", false, "the service is on the session bus, not on the system bus")
	f.DurationVar(&o.patience, "patience", defaultPatience, "with --standalone: how long the line may stand still before giving up; 0: for ever")
	root.AddCommand(
		newServe(o), newRegister(o), newLogin(o), newLogout(o), newList(o), newDownload(o), newUpdate(o), newRollback(o),
		newVerify(o), newBackup(o), newBackups(o), newRestore(o), newKey(o), newFiles(o), newVMs(o), newRun(o), newStop(o), newConsole(o), newBootTrace(o), newRemove(o), newExport(o), newMedia(o), newStatus(o), newPause(o), newResume(o), newCancel(o), newReadMedia(),
	)
	return root
}
