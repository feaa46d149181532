package endpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"disksync/agefile"
	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// backupKeyFile has the keys of encrypted backups, in the form of age-keygen, beside the token and like it for nobody else to read. The
// first is what backups are encrypted for; the others open older ones. It is never removed: without it, and without escrow, what was
// encrypted is lost.
const backupKeyFile = "backup-key.txt"

// MaxBackupKeys bounds a file of keys, in bytes.
const MaxBackupKeys = 64 << 10

func readBackupKeys(fsys durable.FS) ([]agefile.Identity, error) {
	b, err := durable.ReadFile(fsys, backupKeyFile, MaxBackupKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys, err := agefile.ParseIdentities(b)
	if err != nil {
		return nil, problem.New("DS-KEY-DAMAGED", problem.Damaged, err, "the keys of backups cannot be read", "nothing was changed",
			"put back the copy that was exported in place of "+backupKeyFile+" in the state folder")
	}
	return keys, nil
}

// keyText is a file with keys.
func keyText(keys []agefile.Identity, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# keys of backups, written %s; whoever has one can read what is encrypted for it\n", now.UTC().Format(time.RFC3339))
	for _, k := range keys {
		fmt.Fprintf(&b, "# public key: %s\n%s\n", k.Recipient(), k.Secret())
	}
	return b.String()
}

// keepBackupKeys is called with mu held.
func (e *Engine) keepBackupKeys(keys []agefile.Identity) error {
	if err := durable.WriteFile(e.fsys, backupKeyFile, []byte(keyText(keys, e.now())), 0o600); err != nil {
		return err
	}
	e.backupKeys = keys
	return nil
}

// openingKeys returns all keys that may open a backup.
func (e *Engine) openingKeys() []agefile.Identity {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Concat(e.backupKeys, e.lentKeys)
}

// BackupKeys returns the recipients whose keys are kept here, first that which backups are encrypted for. Without any, backups are
// encrypted only where the policy of the image says so.
func (e *Engine) BackupKeys() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return recipientsOf(e.backupKeys)
}

func recipientsOf(keys []agefile.Identity) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.Recipient())
	}
	return out
}

// NewBackupKey makes the key that backups are encrypted with from now on, and returns its recipient. With replace that is so where there is
// one already, which stays to open older backups.
func (e *Engine) NewBackupKey(replace bool) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.backupKeys) > 0 && !replace {
		return "", problem.New("DS-KEY-EXISTS", problem.Busy, nil, "there is a key of backups already: "+e.backupKeys[0].Recipient(), "it is as it was",
			"`disksyncmgr key export` prints it, for you to keep it elsewhere; --replace makes another one")
	}
	k, err := agefile.NewIdentity()
	if err == nil {
		err = e.keepBackupKeys(append([]agefile.Identity{k}, e.backupKeys...))
	}
	return k.Recipient(), err
}

// parseKeys reads keys that somebody gives. The text is in no error.
func parseKeys(text string) ([]agefile.Identity, error) {
	if len(text) > MaxBackupKeys {
		text = ""
	}
	keys, err := agefile.ParseIdentities([]byte(text))
	if err != nil {
		return nil, problem.New("DS-KEY", problem.Usage, err, "this is not a file of keys", "nothing was changed",
			"give a file that `disksyncmgr key export` or age-keygen wrote; it has lines that begin with AGE-SECRET-KEY-1")
	}
	return keys, nil
}

// ImportBackupKeys keeps keys, in the form of age-keygen, and returns all recipients as BackupKeys does. Where there was none, the first
// is what backups are encrypted with from now on.
func (e *Engine) ImportBackupKeys(text string) ([]string, error) {
	keys, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	all := addKeys(e.backupKeys, keys)
	if len(keyText(all, e.now())) > MaxBackupKeys {
		return nil, problem.New("DS-KEY", problem.Usage, nil, "there are too many keys", "nothing was changed", "import those that are needed")
	}
	if len(all) > len(e.backupKeys) {
		if err := e.keepBackupKeys(all); err != nil {
			return nil, err
		}
	}
	return recipientsOf(all), nil
}

func addKeys(all, more []agefile.Identity) []agefile.Identity {
	all = slices.Clone(all)
	for _, k := range more {
		if !slices.Contains(recipientsOf(all), k.Recipient()) {
			all = append(all, k)
		}
	}
	return all
}

// ExportBackupKeys returns the keys as ImportBackupKeys takes them. They are secret.
func (e *Engine) ExportBackupKeys() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.backupKeys) == 0 {
		return "", problem.New("DS-NO-KEY", problem.NotFound, nil, "there is no key of backups", "", "`disksyncmgr key new` makes one")
	}
	return keyText(e.backupKeys, e.now()), nil
}

// LendBackupKeys has keys used until they are returned or the engine is closed; they are kept in memory alone. It returns their
// recipients.
func (e *Engine) LendBackupKeys(text string) ([]string, error) {
	keys, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lentKeys = append(e.lentKeys, keys...)
	return recipientsOf(keys), nil
}

// ReturnBackupKeys forgets keys that were lent, of each recipient one.
func (e *Engine) ReturnBackupKeys(recipients []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range recipients {
		i := slices.IndexFunc(e.lentKeys, func(k agefile.Identity) bool { return k.Recipient() == r })
		if i >= 0 {
			e.lentKeys = slices.Delete(slices.Clone(e.lentKeys), i, i+1)
		}
	}
}

// sealing says how a backup is encrypted, as the policy of the VM's image and the keys that are here say; nil: it is not.
func (o *Operation) sealing(vm deploy.VM, encrypt bool, escrow []string) (*backup.Seal, error) {
	e := o.e
	if encrypt && len(e.BackupKeys()) == 0 {
		r, err := e.NewBackupKey(false)
		if err != nil && problem.Of(err).Code != "DS-KEY-EXISTS" {
			return nil, err
		}
		if err == nil {
			o.note("the policy of image " + vm.Image + " wants backups encrypted, so a key was made: " + r + "; " + keepIt(escrow))
		}
	}
	e.mu.Lock()
	keys := slices.Clone(e.backupKeys)
	e.mu.Unlock()
	if len(keys) == 0 {
		return nil, nil
	}
	s := &backup.Seal{Recipients: []string{keys[0].Recipient()}, Keys: keys, FS: e.fsys, Dir: spoolDir, Look: e.sealLook, Most: e.sealMost}
	for _, r := range escrow {
		if err := agefile.CheckRecipient(r); err != nil {
			return nil, problem.New("DS-BACKUP-POLICY", problem.NeedsLogin, err, "the policy of image "+vm.Image+" names a recipient that is none",
				"the VM is as it was, and was not backed up", "tell the administrator")
		}
		if !slices.Contains(s.Recipients, r) {
			s.Recipients = append(s.Recipients, r)
		}
	}
	return s, nil
}

// keepIt says what it takes to be able to read a backup when this machine is lost.
func keepIt(escrow []string) string {
	if len(escrow) > 0 {
		return "when this machine is lost, whoever keeps an escrow key can read the backups; a copy of your own can be kept elsewhere with `disksyncmgr key export`"
	}
	return "keep a copy elsewhere with `disksyncmgr key export`: when this machine is lost, the backups cannot be read without it"
}

func (e *Engine) hasVM(id image.UUID) bool {
	_, err := e.vmOf(id)
	return !errors.Is(err, deploy.ErrNoVM)
}
