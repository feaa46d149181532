// Command synchronizer is the back end and its administrators' tool; see "synchronizer --help".
package main

import (
	"os"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/release"
)

func main() { os.Exit(cli.Run(newRoot())) }

const about = `The Synchronizer keeps images of virtual machines, their versions and differences, and gives them
to the endpoints of the users that they are assigned to.

"serve" runs it. All other commands administer it: through a socket in the data folder (--data),
for whoever may open it, or over the network (--server, after "login") as an administrator.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not logged in or refused, 4 not reachable,
5 no space, 6 not trusted, 7 damaged data, 8 not found, 9 in use or changed meanwhile,
130 interrupted.`

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use: "synchronizer", Short: "Keeps images of virtual machines and gives them to endpoints", Long: about,
		Version: release.Version,
	}
	f := root.PersistentFlags()
	f.StringVar(&o.data, "data", "", "data `folder` (default $SYNCHRONIZER_DATA or "+defaultData+")")
	f.StringVar(&o.server, "server", "", "administer the Synchronizer at this `URL` instead (after \"login\")")
	f.StringVar(&o.fingerprint, "fingerprint", "", "`fingerprint` of that Synchronizer's key, for \"login\"")
	root.AddCommand(
		newServe(o), newImage(o), newMedia(o), newBackup(o), newUser(o), newGroup(o), newAssign(o), newUnassign(o), newDevice(o), newAudit(o),
		newLogin(o), newLogout(o), newReadMedia(),
	)
	return root
}
