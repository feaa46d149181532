package endpoint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"disksync/api"
	"disksync/internal/problem"
)

// EncryptsBackups reports whether backups are encrypted: there is a key, and nobody has said that they are not. Where the policy of an image
// wants it, they are in any case.
func (e *Engine) EncryptsBackups() bool { return e.keyring().encrypts() }

// EncryptBackups has backups encrypted from the next one on, or not. The keys stay, to open those that are there. What follows a point that
// is encrypted, and is not itself, starts from what was published. Where a policy that is known wants encryption, it is not turned off.
func (e *Engine) EncryptBackups(on bool) error {
	if vms := e.wantEncryption(); !on && len(vms) > 0 {
		return problem.New("DS-BACKUP-POLICY", problem.NeedsLogin, nil, "the policy wants backups of "+strings.Join(vms, ", ")+" encrypted",
			"they are, as before", "the administrator sets that")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.ring
	if on && len(r.keys) == 0 {
		return noKey("there is no key of backups")
	}
	if r.off = !on; r.off == e.ring.off {
		return nil
	}
	return e.keepRing(r)
}

func noKey(what string) error {
	return problem.New("DS-NO-KEY", problem.NotFound, nil, what, "", "`disksyncmgr key new` makes one; `disksyncmgr key show` lists those that are here")
}

// wantEncryption names the VMs here whose images' policies, as far as they are known, want backups encrypted.
func (e *Engine) wantEncryption() (names []string) {
	vms, err := e.store.VMs()
	if err != nil {
		e.log.Error("look whose backups have to be encrypted", "error", err)
	}
	for _, vm := range vms {
		if p, ok := e.policy(vm.ImageID); ok && p.Encrypt {
			names = append(names, "VM "+vm.Name)
		}
	}
	return names
}

// RemoveBackupKey removes the key of a recipient, and returns the recipients that are left, as BackupKeys does. That which backups are
// encrypted for stays in any case. Without force, so does one without which a point of the user's could not be opened here any more, and any
// where that cannot be found out.
func (e *Engine) RemoveBackupKey(ctx context.Context, recipient string, force bool) ([]string, error) {
	left, err := e.leftWithout(e.keyring(), recipient)
	if err == nil && !force {
		err = e.notNeeded(ctx, recipient, left.recipients())
	}
	if err != nil {
		return nil, err
	}
	wanted := len(e.wantEncryption()) > 0
	e.mu.Lock()
	defer e.mu.Unlock()
	// What was looked at may have changed meanwhile.
	now, ok := e.ring.without(recipient)
	if !ok || !slices.Equal(now.recipients(), left.recipients()) || now.off != left.off || wanted && e.ring.recipients()[0] == recipient {
		return nil, problem.New("DS-KEY-NEEDED", problem.Busy, nil, "the keys have changed meanwhile", "they stay", "look at them again with `disksyncmgr key show`")
	}
	if !force && e.backsUp() {
		return nil, keyNeeded("a backup is under way, which may need the key of "+recipient, "wait for its end, or `disksyncmgr pause` it")
	}
	return now.recipients(), e.keepRing(now)
}

// leftWithout returns a keyring without the key of a recipient, unless backups are encrypted for that.
func (e *Engine) leftWithout(r keyring, recipient string) (keyring, error) {
	left, ok := r.without(recipient)
	if !ok {
		return r, noKey("there is no key of " + recipient)
	}
	if r.keys[0].Recipient() != recipient {
		return left, nil
	}
	if vms := e.wantEncryption(); len(vms) > 0 {
		return r, keyNeeded("backups of "+strings.Join(vms, ", ")+" are encrypted for "+recipient+", as the policy wants", "`disksyncmgr key new --replace` makes another key for them")
	}
	if r.encrypts() {
		return r, keyNeeded("backups are encrypted for "+recipient, "`disksyncmgr key new --replace` makes another key for them, `disksyncmgr key disable` has them not encrypted")
	}
	return left, nil
}

func keyNeeded(what, next string) error {
	return problem.New("DS-KEY-NEEDED", problem.Busy, nil, what, "the key is here as before", next)
}

// backsUp reports whether a backup runs. It is called with mu held.
func (e *Engine) backsUp() bool {
	return slices.ContainsFunc(e.operations, func(o *Operation) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.status.Request.Kind == Backup && o.done != nil && !o.queued
	})
}

const exportFirst = "; `disksyncmgr key export` keeps the keys elsewhere, and --force removes this one all the same"

// notNeeded returns an error unless each point that can be opened with the key of a recipient can be with one of those that are left, too.
func (e *Engine) notNeeded(ctx context.Context, recipient string, left []string) error {
	var lines []api.BackupLine
	var err error
	if e.Registered() != nil {
		lines, err = e.Backups(ctx)
	}
	if err != nil {
		p := problem.Of(err)
		return problem.New(p.Code, p.Exit, err, "it cannot be found out which backups need the key", "the key is here as before", p.Next+exportFirst)
	}
	var needed []string
	for _, l := range lines {
		if text := pointsOf(l, recipient, left); text != "" {
			needed = append(needed, text)
		}
	}
	if len(needed) > 0 {
		return keyNeeded("no other key here opens these backups: "+strings.Join(needed, "; "), "delete them first, or leave the key until they go"+exportFirst)
	}
	vms, err := e.store.VMs()
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.Backup != nil && !slices.ContainsFunc(lines, func(l api.BackupLine) bool { return l.ID == vm.Backup.Line }) {
			return keyNeeded("VM "+vm.Name+" has backups that are another user's, or gone; whether they need the key cannot be found out",
				"look as that user"+exportFirst)
		}
	}
	return nil
}

// maxNamed is how many points of a line are named to people.
const maxNamed = 8

// pointsOf names the points of a line that the key of a recipient opens and none of others; "" when there are none.
func pointsOf(l api.BackupLine, recipient string, others []string) string {
	var points []string
	for _, p := range l.Points {
		if slices.ContainsFunc(p.Disks, func(d api.DiskInfo) bool {
			return slices.Contains(d.Sealed, recipient) && !slices.ContainsFunc(others, func(r string) bool { return slices.Contains(d.Sealed, r) })
		}) {
			points = append(points, p.Point.String())
		}
	}
	switch n := len(points); {
	case n == 0:
		return ""
	case n > maxNamed:
		return fmt.Sprintf("points %s and %d more of VM %s", strings.Join(points[:maxNamed], ", "), n-maxNamed, l.Name)
	case n == 1:
		return "point " + points[0] + " of VM " + l.Name
	}
	return "points " + strings.Join(points, ", ") + " of VM " + l.Name
}
