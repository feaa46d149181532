package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"disksync/api"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/syncclient"
)

// Backups describes the lines of backups of the user, of all the user's devices.
func (e *Engine) Backups(ctx context.Context) ([]api.BackupLine, error) {
	c, _, err := e.connectWithin(nil, true)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	lines, err := c.Backups(ctx)
	return append([]api.BackupLine{}, lines...), explainLines(err)
}

// BackupsOf describes one of them with all its points: by its id, by a VM of this machine, or by the name of a VM of any of the user's devices.
// The id means the same for ever, which no name does.
func (e *Engine) BackupsOf(ctx context.Context, name string) (api.BackupLine, error) {
	c, _, err := e.connectWithin(nil, true)
	if err != nil {
		return api.BackupLine{}, err
	}
	defer c.Close()
	l, err := e.findLine(ctx, c, name)
	if err != nil {
		return api.BackupLine{}, err
	}
	l, err = c.Backup(ctx, l.ID)
	return l, explainLines(err)
}

// findLine finds the line that was named, with its newest point.
func (e *Engine) findLine(ctx context.Context, c *syncclient.Client, name string) (api.BackupLine, error) {
	lines, err := c.BackupLines(ctx)
	if err != nil {
		return api.BackupLine{}, explainLines(err)
	}
	return e.chooseLine(lines, name)
}

func explainLines(err error) error {
	return syncclient.Explain(err, "cannot ask for your backups", "nothing was changed")
}

func explainBackup(err error, vm string) error {
	return syncclient.Explain(err, "VM "+vm+" was not backed up", "it is as it was")
}

// restore finds out what a restore is to bring, and onto what.
func (m *mission) restore(ctx context.Context, r Request) error {
	var lines []api.BackupLine
	err := m.ask(ctx, func() error {
		var err error
		lines, err = m.client.BackupLines(ctx)
		return err
	})
	if err != nil {
		return explainLines(err)
	}
	l, err := m.e.chooseLine(lines, r.From)
	if err != nil {
		return err
	}
	if r.Point != 0 {
		err := m.ask(ctx, func() error {
			var err error
			l, err = m.client.Backup(ctx, l.ID)
			return err
		})
		if err != nil {
			return explainLines(err)
		}
	}
	p, err := choosePoint(l, r.Point)
	if err != nil {
		return err
	}
	if err := m.restoreOnto(l, p, r); err != nil {
		return err
	}
	m.notes = append(m.notes, fmt.Sprintf("point %d of VM %s, made %s on %s", p.Point, l.Name, p.Created.Local().Format("2006-01-02 15:04"), l.DeviceName))
	if p.Damaged != "" {
		m.notes = append(m.notes, "the Synchronizer says that this point is damaged: "+p.Damaged)
	}
	m.unlock(ctx, l.Image)
	return m.ask(ctx, func() error {
		m.job.Manifest, err = m.e.pointManifest(ctx, m.client, m.reg, l, p.Point)
		return err
	})
}

// unlock fetches the keys of sealed media with an image, where it is still assigned. Without them the Synchronizer has everything.
func (m *mission) unlock(ctx context.Context, name string) {
	if offers, err := m.client.Offers(ctx); err == nil {
		for _, o := range offers {
			if o.Image == name {
				m.offer = o
				m.e.learnKeys(ctx, m.client, o)
			}
		}
	}
}

// chooseLine finds the line that was named: by its id, by a VM of this machine, or by the name of a VM of any device.
func (e *Engine) chooseLine(lines []api.BackupLine, name string) (api.BackupLine, error) {
	if i := slices.IndexFunc(lines, func(l api.BackupLine) bool { return l.ID.String() == name && l.Newest != 0 }); i >= 0 {
		return lines[i], nil
	}
	var found []api.BackupLine
	mine, _ := e.store.VM(name)
	for _, l := range lines {
		switch {
		case l.Newest == 0:
		case !mine.ID.IsZero() && l.VM == mine.ID:
			return l, nil
		case name == "" || l.Name == name:
			found = append(found, l)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && name == "":
		return api.BackupLine{}, problem.New("DS-NO-BACKUP", problem.NotFound, nil, "you have no backups", "nothing was changed", "`backup VM` makes one")
	case len(found) == 0:
		return api.BackupLine{}, problem.New("DS-NO-BACKUP", problem.NotFound, nil, "you have no backups of a VM "+name, "nothing was changed",
			"`disksyncmgr backups` shows those that you have")
	}
	return api.BackupLine{}, problem.New("DS-CHOOSE", problem.Usage, nil, fmt.Sprintf("you have backups of %d such VMs", len(found)), "nothing was changed",
		"name one by its id; `disksyncmgr backups` shows them")
}

func choosePoint(l api.BackupLine, n image.Version) (api.BackupPoint, error) {
	if n == 0 && len(l.Points) > 0 {
		return l.Points[len(l.Points)-1], nil
	}
	i := slices.IndexFunc(l.Points, func(p api.BackupPoint) bool { return p.Point == n })
	if i < 0 {
		return api.BackupPoint{}, problem.New("DS-NO-POINT", problem.NotFound, nil, fmt.Sprintf("the backups of VM %s have no point %d", l.Name, n),
			"nothing was changed", "`disksyncmgr backups` shows the points that there are")
	}
	return l.Points[i], nil
}

// restoreOnto decides what VM a point becomes.
func (m *mission) restoreOnto(l api.BackupLine, p api.BackupPoint, r Request) error {
	m.vm = r.VM
	if m.vm == "" {
		m.vm = l.Name
	}
	vm, err := m.e.store.VM(m.vm)
	switch {
	case err != nil && !errors.Is(err, deploy.ErrNoVM):
		return err
	case err != nil && !r.InPlace:
		return nil
	case err != nil:
		return problem.New("DS-NO-VM", problem.NotFound, nil, "there is no VM "+m.vm+" on this machine whose disks could be replaced", "nothing was changed",
			"leave out --in-place to restore it as a new VM")
	case !r.InPlace:
		return problem.New("DS-EXISTS", problem.Busy, nil, "there is a VM "+m.vm+" already", "it is as it was",
			"restore it as another VM with --as NAME, or put its present disks aside with --in-place")
	case vm.ID != l.VM && (vm.Backup == nil || vm.Backup.Line != l.ID):
		return problem.New("DS-OTHER-VM", problem.Untrusted, nil, "VM "+m.vm+" is another one than the backups are of", "it is as it was",
			"restore it as a new VM with --as NAME")
	}
	if err := m.e.store.Idle(vm, "restored"); err != nil {
		return err
	}
	m.old, m.keep = &vm, map[image.Role]bool{}
	for _, d := range vm.Current.Disks {
		if !deploy.BackedUp(vm.Current.Mode, d.Role) {
			m.keep[d.Role] = true
			m.notes = append(m.notes, fmt.Sprintf("the %s disk stays as it is", d.Role))
		}
	}
	m.job.Skip = m.keep
	return nil
}

// pointManifest fetches the manifest of a point and checks its signature, and that it is that of the point which was asked for. Unlike a
// version of an image it may change: the layers that lead to its states do.
func (e *Engine) pointManifest(ctx context.Context, c *syncclient.Client, r *Registration, l api.BackupLine, n image.Version) (image.Verified, error) {
	what := fmt.Sprintf("cannot get point %d of the backups of VM %s", n, l.Name)
	env, err := c.PointManifest(ctx, l.ID, n)
	if err != nil {
		return image.Verified{}, syncclient.Explain(err, what, "nothing was changed")
	}
	m, err := image.VerifyManifest(env, r.SigningKey)
	if err != nil {
		return image.Verified{}, problem.New("DS-UP-SIGNATURE", problem.Untrusted, err, what, "nothing was changed",
			"ask the administrator; register again with --replace only when the Synchronizer's keys were changed on purpose")
	}
	if mf := m.Manifest(); mf.Point == nil || mf.ImageID != l.ID || mf.Version != n || mf.Point.VM != l.VM {
		return image.Verified{}, problem.New("DS-UP-WRONG", problem.Untrusted, nil,
			fmt.Sprintf("%s: the Synchronizer sent version %d of %s in its place", what, mf.Version, mf.Image), "nothing was changed",
			"ask the administrator")
	}
	return m, nil
}
