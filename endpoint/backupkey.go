package endpoint

import (
	"errors"
	"maps"
	"slices"

	"disksync/agefile"
	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/problem"
)

// openingKeys returns all keys that may open a backup.
func (e *Engine) openingKeys() []agefile.Identity {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := slices.Clone(e.ring.keys)
	for _, lender := range slices.Sorted(maps.Keys(e.lentKeys)) {
		all = append(all, e.lentKeys[lender]...)
	}
	return all
}

// BackupKeys returns the recipients whose keys are kept here, first that which backups are encrypted for, as far as EncryptsBackups says
// that they are. Without any, backups are encrypted only where the policy of the image says so.
func (e *Engine) BackupKeys() []string { return e.keyring().recipients() }

func recipientsOf(keys []agefile.Identity) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.Recipient())
	}
	return out
}

// NewBackupKey makes the key that backups are encrypted with from now on, and returns its recipient. With replace that is so where there is
// one already, which stays to open older backups.
func (e *Engine) NewBackupKey(replace bool) (string, error) { return e.newBackupKey(replace, true) }

// newBackupKey is NewBackupKey for the sake of a policy when on is false: what holds where that wants nothing stays as it is.
func (e *Engine) newBackupKey(replace, on bool) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ring.keys) > 0 && !replace {
		next := "`disksyncmgr key export` prints it, for you to keep it elsewhere; --replace makes another one"
		if e.ring.off {
			next = "`disksyncmgr key enable` has backups encrypted with it; --replace makes another one"
		}
		return "", problem.New("DS-KEY-EXISTS", problem.Busy, nil, "there is a key of backups already: "+e.ring.keys[0].Recipient(), "it is as it was", next)
	}
	k, err := agefile.NewIdentity()
	if err == nil {
		err = e.keepRing(keyring{keys: append([]agefile.Identity{k}, e.ring.keys...), off: e.ring.off && !on})
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
// is what backups are encrypted with from now on, unless EncryptBackups has turned that off.
func (e *Engine) ImportBackupKeys(text string) ([]string, error) {
	keys, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.ring.with(keys)
	if len(all.keys) > len(e.ring.keys) {
		if err := e.keepRing(all); err != nil {
			return nil, err
		}
	}
	return all.recipients(), nil
}

// ExportBackupKeys returns the keys as ImportBackupKeys takes them. They are secret.
func (e *Engine) ExportBackupKeys() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ring.keys) == 0 {
		return "", noKey("there is no key of backups")
	}
	return keyText(e.ring.keys, e.now()), nil
}

// LendBackupKeys has keys used until the lender, which can have any name, returns them or the engine is closed; they are kept in memory
// alone. It returns their recipients. To lend a key again changes nothing.
func (e *Engine) LendBackupKeys(lender, text string) ([]string, error) {
	keys, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	all := keyring{keys: e.lentKeys[lender]}.with(keys).keys
	if len(keyText(all, e.now())) > MaxBackupKeys {
		return nil, problem.New("DS-KEY", problem.Usage, nil, "there are too many keys", "nothing was changed", "lend those that are needed")
	}
	e.lentKeys[lender] = all
	return recipientsOf(keys), nil
}

// ReturnBackupKeys forgets keys of these recipients that the lender has lent.
func (e *Engine) ReturnBackupKeys(lender string, recipients []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lentKeys[lender] = slices.DeleteFunc(e.lentKeys[lender], func(k agefile.Identity) bool {
		return slices.Contains(recipients, k.Recipient())
	})
	if len(e.lentKeys[lender]) == 0 {
		delete(e.lentKeys, lender)
	}
}

// ReturnAllBackupKeys forgets the keys of a lender.
func (e *Engine) ReturnAllBackupKeys(lender string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.lentKeys, lender)
}

// sealing says how a backup is encrypted, as the policy of the VM's image and the keys that are here say; nil: there is no key, and one
// without recipients: it was turned off.
func (o *Operation) sealing(vm deploy.VM, encrypt bool, escrow []string) (*backup.Seal, error) {
	e := o.e
	if encrypt && len(e.BackupKeys()) == 0 {
		r, err := e.newBackupKey(false, false)
		if err != nil && problem.Of(err).Code != "DS-KEY-EXISTS" {
			return nil, err
		}
		if err == nil {
			o.note("the policy of image " + vm.Image + " wants backups encrypted, so a key was made: " + r + "; " + keepIt(escrow))
		}
	}
	ring := e.keyring()
	s := &backup.Seal{Keys: ring.keys, FS: e.fsys, Dir: spoolDir, Look: e.sealLook, Most: e.sealMost}
	switch {
	case ring.off && !encrypt:
		return s, nil
	case len(ring.keys) == 0 && e.fromSealed(vm):
		return nil, problem.New("DS-BACKUP-KEY", problem.NeedsLogin, nil, "VM "+vm.Name+" was restored from encrypted backups, and there is no key here for its own",
			"the VM is as it was; nothing was sent", "import the key with `disksyncmgr key import FILE`, or make another one with `disksyncmgr key new`; "+
				"with `disksyncmgr key disable` backups are not encrypted")
	case len(ring.keys) == 0:
		return nil, nil
	case ring.off:
		o.note("encryption was turned off here, but the policy of image " + vm.Image + " wants backups encrypted, so this one is")
	}
	s.Recipients = ring.recipients()[:1]
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

// fromSealed reports whether a VM that has no backups of its own yet was restored from encrypted ones: what is on its disks must not be sent in
// the clear because the key was only lent.
func (e *Engine) fromSealed(vm deploy.VM) bool {
	m, err := e.store.Manifest(vm.Current, e.trusted()...)
	return err == nil && vm.Backup == nil && slices.ContainsFunc(m.Manifest().Disks, func(d image.Disk) bool {
		return slices.ContainsFunc(d.Layers, func(l image.LayerRef) bool { return len(l.Sealed) > 0 })
	})
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
