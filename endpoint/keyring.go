package endpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"disksync/agefile"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// backupKeyFile has the keys of encrypted backups, in the form of age-keygen, beside the token and like it for nobody else to read. The
// first is what backups are encrypted for; the others open older ones. It is never removed, and no key in it but by name: without it, and
// without escrow, what was encrypted is lost.
const backupKeyFile = "backup-key.txt"

// MaxBackupKeys bounds a file of keys, in bytes.
const MaxBackupKeys = 64 << 10

// offLine is the line of the file by which backups are not encrypted though there may be keys. It is in this file so that one step changes
// both, and a comment so that other programs read it; where it is lost, backups are encrypted.
const offLine = "# encryption: off"

// keyring is the keys of backups that are kept here. Its slice is never changed.
type keyring struct {
	keys []agefile.Identity
	off  bool // backups are not encrypted, but where a policy wants it
}

func readKeyring(fsys durable.FS) (keyring, error) {
	b, err := durable.ReadFile(fsys, backupKeyFile, MaxBackupKeys)
	if errors.Is(err, fs.ErrNotExist) {
		return keyring{}, nil
	}
	if err != nil {
		return keyring{}, err
	}
	r, err := parseKeyring(b)
	if err != nil {
		return keyring{}, problem.New("DS-KEY-DAMAGED", problem.Damaged, err, "the keys of backups cannot be read", "nothing was changed",
			"put back the copy that was exported in place of "+backupKeyFile+" in the state folder")
	}
	return r, nil
}

// parseKeyring reads the file. Only one that says that backups are not encrypted may have no keys.
func parseKeyring(b []byte) (r keyring, err error) {
	empty := true
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		r.off = r.off || line == offLine
		empty = empty && (line == "" || strings.HasPrefix(line, "#"))
	}
	if !r.off || !empty {
		r.keys, err = agefile.ParseIdentities(b)
	}
	return r, err
}

func (r keyring) write(fsys durable.FS, now time.Time) error {
	return durable.WriteFile(fsys, backupKeyFile, []byte(r.text(now)), 0o600)
}

func (r keyring) text(now time.Time) string {
	if r.off {
		return offLine + "\n" + keyText(r.keys, now)
	}
	return keyText(r.keys, now)
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

// encrypts reports whether backups are encrypted where no policy says anything.
func (r keyring) encrypts() bool { return len(r.keys) > 0 && !r.off }

func (r keyring) recipients() []string { return recipientsOf(r.keys) }

// with returns the keyring with more keys at its end, without those that it has.
func (r keyring) with(more []agefile.Identity) keyring {
	r.keys = slices.Clone(r.keys)
	for _, k := range more {
		if !slices.Contains(r.recipients(), k.Recipient()) {
			r.keys = append(r.keys, k)
		}
	}
	return r
}

// without returns the keyring without the key of a recipient, and whether it had that.
func (r keyring) without(recipient string) (keyring, bool) {
	i := slices.Index(r.recipients(), recipient)
	if i < 0 {
		return r, false
	}
	r.keys = slices.Delete(slices.Clone(r.keys), i, i+1)
	return r, true
}

// keepRing is called with mu held.
func (e *Engine) keepRing(r keyring) error {
	if len(r.text(e.now())) > MaxBackupKeys { // the next process would not read it
		return problem.New("DS-KEY", problem.Usage, nil, "there are too many keys", "nothing was changed", "keep those that are needed; `disksyncmgr key remove` removes one")
	}
	if err := r.write(e.fsys, e.now()); err != nil {
		return err
	}
	e.ring = r
	return nil
}

// keyring returns the keys that are kept here.
func (e *Engine) keyring() keyring {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ring
}
