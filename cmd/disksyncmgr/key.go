package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

func newKey(o *options) *cobra.Command {
	c := cli.Group("key", "Look after the key that backups are encrypted with", newKeyNew(o), newKeyShow(o), newKeyExport(o), newKeyImport(o),
		newKeyRemove(o), newKeySwitch(o, true), newKeySwitch(o, false))
	c.Long = `Backups are encrypted before they leave this machine when there is a key, or when the policy of the image says
so: with age (https://age-encryption.org), for your key and for those of escrow that the policy names.

Without the key, and without escrow, encrypted backups are lost when this machine is: keep a copy of the
key elsewhere. Whoever has the key and can get at the backups can read them.`
	return c
}

func newKeyNew(o *options) *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use: "new", Short: "Make a key; backups are encrypted from then on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				r, err := d.NewBackupKey(cmd.Context(), replace)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), r)
				fmt.Fprint(os.Stderr, "Backups are encrypted for this key from now on. Keep a copy of it elsewhere, with `disksyncmgr key export`:\n"+
					"when this machine is lost, they cannot be read without it, unless the administrator has an escrow key.\n")
				return nil
			})
		},
	}
	c.Flags().BoolVar(&replace, "replace", false, "in place of the present one, which stays to open older backups")
	return c
}

func newKeyShow(o *options) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show", Short: "List the public halves of the keys that are here", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				keys, err := d.BackupKeys(cmd.Context())
				if err != nil {
					return err
				}
				on, err := d.EncryptsBackups(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), shown(keys, on))
				}
				for i, r := range keys {
					use := "opens older backups"
					if on && i == 0 {
						use = "backups are encrypted for it"
					}
					printLine(cmd.OutOrStdout(), "%s  %s", r, use)
				}
				if len(keys) > 0 && !on {
					fmt.Fprintln(os.Stderr, "Backups are not encrypted, but where the policy of an image wants it; `disksyncmgr key enable` changes that.")
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// shownKeys is what "key show" prints as JSON.
type shownKeys struct {
	Encryption bool       `json:"encryption"` // backups are encrypted where no policy says anything
	Keys       []shownKey `json:"keys"`
}

type shownKey struct {
	Recipient string `json:"recipient"`
	Encrypts  bool   `json:"encrypts"` // backups are encrypted for it; else it opens older ones
}

func shown(keys []string, on bool) shownKeys {
	out := shownKeys{Encryption: on, Keys: []shownKey{}}
	for i, r := range keys {
		out.Keys = append(out.Keys, shownKey{r, on && i == 0})
	}
	return out
}

func newKeyExport(o *options) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "export", Short: "Print the keys, which are secret, to keep them elsewhere", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				text, err := d.ExportBackupKeys(cmd.Context())
				if err != nil {
					return err
				}
				if to == "" {
					_, err = io.WriteString(cmd.OutOrStdout(), text)
					return err
				}
				return keepSecret(to, text)
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "write them to this new `file`, for nobody else to read")
	return c
}

// keepSecret writes a text to a new file that only its owner can read.
func keepSecret(name, text string) error {
	if _, err := os.Lstat(name); err == nil {
		return problem.New("DS-EXISTS", problem.Busy, nil, name+" is there already", "it is as it was", "choose another name")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := durable.Dir(filepath.Dir(name))
	if err != nil {
		return err
	}
	return durable.WriteFile(dir, filepath.Base(name), []byte(text), 0o600)
}

func newKeyImport(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Keep the keys in a file, which \"key export\" or age-keygen wrote", Args: cobra.ExactArgs(1),
		Long: `Keeps the keys in FILE, or on stdin for "-", in the state folder. Where there was no key, backups are encrypted
with the first one from then on; others open older backups.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readKeys(cmd, args[0])
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(d door) error {
				keys, err := d.ImportBackupKeys(cmd.Context(), text)
				if err != nil {
					return err
				}
				return sayKeys(cmd, d, keys)
			})
		},
	}
}

// sayKeys says how many keys are here, and what backups are encrypted for.
func sayKeys(cmd *cobra.Command, d door, keys []string) error {
	on, err := d.EncryptsBackups(cmd.Context())
	if err != nil {
		return err
	}
	use := "not encrypted"
	if on {
		use = "encrypted for " + keys[0]
	}
	printLine(cmd.OutOrStdout(), "%s here; backups are %s", count(len(keys), "key"), use)
	return nil
}

func newKeyRemove(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "remove RECIPIENT", Short: "Remove a key that opens older backups", Args: cobra.ExactArgs(1),
		Long: `Removes the key of RECIPIENT, as "key show" prints it, from this machine. The key that backups are encrypted for
is not removed; nor is one, but with --force, without which one of your backups could not be opened here any
more, or when that cannot be found out. Copies of the key that were exported still open what is encrypted for it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(d door) error {
				keys, err := d.RemoveBackupKey(cmd.Context(), args[0], force)
				if err != nil {
					return err
				}
				return sayKeys(cmd, d, keys)
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also when backups need it that no other key here opens")
	return c
}

const (
	enabled  = "Backups are encrypted from the next one on. What was sent in the clear before stays as it is.\n"
	disabled = "Backups are not encrypted any more, from the next one on. The next one of a VM whose newest is encrypted starts from what was published:\n" +
		"the Synchronizer can read all that was written since, also what older backups have encrypted. The keys stay, to open those.\n"
)

// newKeySwitch makes "key enable" or "key disable".
func newKeySwitch(o *options, on bool) *cobra.Command {
	c := &cobra.Command{
		Use: "disable", Short: "Do not encrypt backups any more; the keys stay, to open those that are there", Args: cobra.NoArgs,
		Long: `From the next one on backups are not encrypted. The keys stay, to open those that are there. The next backup of a
VM whose last one is encrypted starts from what was published, and is sent though nothing was written: the
Synchronizer can read all of it. Where the policy of an image wants encryption this is refused.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				err := d.EncryptBackups(cmd.Context(), on)
				if err == nil {
					fmt.Fprint(os.Stderr, map[bool]string{true: enabled, false: disabled}[on])
				}
				return err
			})
		},
	}
	if on {
		c.Use, c.Short = "enable", "Encrypt backups again, for the first key of \"key show\""
		c.Long = ""
	}
	return c
}

// readKeys reads a file of keys with the rights of whoever called the command.
func readKeys(cmd *cobra.Command, name string) (string, error) {
	r := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", problem.New("DS-KEY", problem.Usage, err, "the keys cannot be read", "nothing was changed", "give a file that `disksyncmgr key export` wrote")
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, endpoint.MaxBackupKeys+1))
	return string(b), err
}

// lend runs do with a door whose engine has the keys in a file lent to it; "" lends none.
func lend(cmd *cobra.Command, d door, name string, do func(d door) error) error {
	if name == "" {
		return do(d)
	}
	text, err := readKeys(cmd, name)
	if err != nil {
		return err
	}
	lent, err := d.LendBackupKeys(cmd.Context(), text)
	if err != nil {
		return err
	}
	// Where it fails the service has gone, and the keys with it; else they go with the door at the latest.
	defer func() { _ = d.ReturnBackupKeys(context.WithoutCancel(cmd.Context()), lent) }()
	return do(lender{d, text})
}

// lender is a door that lends keys for each disk that is opened: a service that was exchanged meanwhile does not have them.
type lender struct {
	door
	keys string
}

func (l lender) OpenDisk(ctx context.Context, vm string, point image.Version, r image.Role) (dbusapi.Disk, error) {
	if _, err := l.LendBackupKeys(ctx, l.keys); err != nil {
		return nil, err
	}
	return l.door.OpenDisk(ctx, vm, point, r)
}

func (s *standalone) BackupKeys(context.Context) ([]string, error) { return s.Engine.BackupKeys(), nil }

func (s *standalone) NewBackupKey(_ context.Context, replace bool) (string, error) {
	return s.Engine.NewBackupKey(replace)
}

func (s *standalone) ExportBackupKeys(context.Context) (string, error) {
	return s.Engine.ExportBackupKeys()
}

func (s *standalone) ImportBackupKeys(_ context.Context, text string) ([]string, error) {
	return s.Engine.ImportBackupKeys(text)
}

func (s *standalone) EncryptsBackups(context.Context) (bool, error) {
	return s.Engine.EncryptsBackups(), nil
}

func (s *standalone) EncryptBackups(_ context.Context, on bool) error {
	return s.Engine.EncryptBackups(on)
}

// self is who lends keys to the engine in this process.
const self = "this program"

func (s *standalone) LendBackupKeys(_ context.Context, text string) ([]string, error) {
	return s.Engine.LendBackupKeys(self, text)
}

func (s *standalone) ReturnBackupKeys(_ context.Context, recipients []string) error {
	s.Engine.ReturnBackupKeys(self, recipients)
	return nil
}
