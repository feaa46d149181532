package main

import (
	"strings"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/syncclient"
)

func newUser(o *options) *cobra.Command {
	return cli.Group("user", "Manage users",

		newUserAdd(o),
		newUserPassword(o),
		doCommand(o, "delete NAME", "Delete a user with all that is assigned to the user", 1,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				return c.DeleteUser(cmd.Context(), args[0])
			}),
		listCommand(o, "list", "List users", cobra.NoArgs,
			func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.User, error) {
				return c.Users(cmd.Context())
			},
			[]string{"USER", "ROLE", "GROUPS"},
			func(u api.User) []string {
				role := "standard"
				if u.Admin {
					role = "admin"
				}
				return []string{u.Name, role, strings.Join(u.Groups, " ")}
			}),
	)
}

func newUserAdd(o *options) *cobra.Command {
	var admin, stdin bool
	c := &cobra.Command{
		Use: "add NAME", Short: "Add a user", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := api.CheckAccount(args[0]); err != nil {
				return cli.UsageError("%v", err)
			}
			p, err := cli.Password(cmd.Context(), stdin, true, "Password for "+args[0]+": ")
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				return c.AddUser(cmd.Context(), api.NewUser{Name: args[0], Password: p, Admin: admin})
			})
		},
	}
	c.Flags().BoolVar(&admin, "admin", false, "an administrator, who may do everything over the network too")
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from stdin")
	return c
}

func newUserPassword(o *options) *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "password NAME", Short: "Set a user's password and end the user's logins", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := cli.Password(cmd.Context(), stdin, true, "New password for "+args[0]+": ")
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error { return c.SetPassword(cmd.Context(), args[0], p) })
		},
	}
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from stdin")
	return c
}

func newGroup(o *options) *cobra.Command {
	return cli.Group("group", "Manage groups of users",

		doCommand(o, "add GROUP", "Add a group", 1,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				return c.AddGroup(cmd.Context(), args[0])
			}),
		doCommand(o, "delete GROUP", "Delete a group with all that is assigned to it", 1,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				return c.DeleteGroup(cmd.Context(), args[0])
			}),
		doCommand(o, "join GROUP USER", "Put a user into a group", 2,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				return c.AddMember(cmd.Context(), args[0], args[1])
			}),
		doCommand(o, "leave GROUP USER", "Take a user out of a group", 2,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				return c.RemoveMember(cmd.Context(), args[0], args[1])
			}),
		listCommand(o, "list", "List groups", cobra.NoArgs,
			func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.Group, error) {
				return c.Groups(cmd.Context())
			},
			[]string{"GROUP", "MEMBERS"}, func(g api.Group) []string { return []string{g.Name, strings.Join(g.Members, " ")} }),
	)
}

func newAssign(o *options) *cobra.Command {
	var to string
	var version uint32
	var list, asJSON bool
	c := &cobra.Command{
		Use: "assign IMAGE --to user:NAME", Short: "Give an image to a user or group, or list what is given", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list || len(args) == 0 && to == "" {
				return listAssignments(o, cmd, asJSON)
			}
			a, err := assignment(args, to)
			if err != nil {
				return err
			}
			a.Version = image.Version(version)
			return o.with(cmd.Context(), func(c *syncclient.Client) error { return c.Assign(cmd.Context(), a) })
		},
	}
	c.Flags().StringVar(&to, "to", "", "`user:NAME` or group:NAME")
	c.Flags().Uint32Var(&version, "version", 0, "this version and no other; without it always the newest")
	c.Flags().BoolVar(&list, "list", false, "list assignments")
	c.Flags().BoolVar(&asJSON, "json", false, "list as JSON")
	return c
}

func newUnassign(o *options) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "unassign IMAGE --to user:NAME", Short: "Take an image away again; VMs that were deployed stay", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := assignment(args, to)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error { return c.Unassign(cmd.Context(), a) })
		},
	}
	c.Flags().StringVar(&to, "to", "", "`user:NAME` or group:NAME")
	return c
}

func assignment(args []string, to string) (api.Assignment, error) {
	if len(args) != 1 || to == "" {
		return api.Assignment{}, cli.UsageError("name an image, and a user or group with --to")
	}
	a := api.Assignment{Image: args[0]}
	if err := a.To.UnmarshalText([]byte(to)); err != nil {
		return a, cli.UsageError("%v", err)
	}
	return a, nil
}

func listAssignments(o *options, cmd *cobra.Command, asJSON bool) error {
	return o.with(cmd.Context(), func(c *syncclient.Client) error {
		as, err := c.Assignments(cmd.Context())
		if err != nil {
			return err
		}
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), as)
		}
		var rows [][]string
		for _, a := range as {
			v := "newest"
			if a.Version != 0 {
				v = a.Version.String()
			}
			rows = append(rows, []string{a.Image, a.To.String(), v})
		}
		return cli.Table(cmd.OutOrStdout(), []string{"IMAGE", "TO", "VERSION"}, rows)
	})
}

func newDevice(o *options) *cobra.Command {
	return cli.Group("device", "Manage registered endpoints",

		listCommand(o, "list", "List endpoints that users have logged in from", cobra.NoArgs,
			func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.DeviceInfo, error) {
				return c.Devices(cmd.Context())
			},
			[]string{"DEVICE", "NAME", "USER", "LAST SEEN"},
			func(d api.DeviceInfo) []string {
				return []string{d.ID.String(), d.Name, d.User, d.LastSeen.Local().Format("2006-01-02 15:04")}
			}),
		doCommand(o, "delete DEVICE", "End the registration and all logins of an endpoint", 1,
			func(cmd *cobra.Command, c *syncclient.Client, args []string) error {
				id, err := image.ParseUUID(args[0])
				if err != nil {
					return cli.UsageError("%v", err)
				}
				return c.DeleteDevice(cmd.Context(), id)
			}),
	)
}

func newAudit(o *options) *cobra.Command {
	return listCommand(o, "audit", "Show who changed what, newest first", cobra.NoArgs,
		func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.AuditEntry, error) {
			return c.Audit(cmd.Context())
		},
		[]string{"TIME", "WHO", "FROM", "WHAT", "OUTCOME"},
		func(e api.AuditEntry) []string {
			return []string{e.At.Local().Format("2006-01-02 15:04:05"), e.Who, e.From, e.What, e.Outcome}
		})
}

func newLogin(o *options) *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "login NAME", Short: "Log in to the Synchronizer named with --server, as an administrator", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.server == "" || o.fingerprint == "" {
				return cli.UsageError("name the Synchronizer with --server and --fingerprint, as its `serve` printed them")
			}
			p, err := cli.Password(cmd.Context(), stdin, false, "Password: ")
			if err != nil {
				return err
			}
			return o.logIn(cmd.Context(), args[0], p)
		},
	}
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from stdin")
	return c
}

func newLogout(*options) *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the login made with \"login\"", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return logOut(cmd.Context()) },
	}
}
