package endpoint

import (
	"context"
	"maps"
	"time"

	"disksync/api"
	"disksync/deploy"
	"disksync/image"
)

// policiesFile keeps what policies said last, so that backups are due without a line, too.
const policiesFile = "policies.json"

const (
	// dueEvery is how often it is looked which backups are due.
	dueEvery = time.Minute
	// policyEvery is how often the Synchronizer is asked for the policies.
	policyEvery = 30 * time.Minute
	// againAfter is how long after an attempt that failed the next one is made.
	againAfter = 15 * time.Minute
)

// policies is when backups of the VMs of images are due.
type policies struct {
	User   string                      `json:"user"`
	Images map[string]api.BackupPolicy `json:"images"` // by the image's id
}

// KeepBackups makes backups by itself, as the policies of the images say, until ctx ends or the engine is closed. What is due while the
// line is interrupted is made up for once, when it is back. It is for the service.
func (e *Engine) KeepBackups(ctx context.Context) {
	e.work.Go(func() {
		tick := time.NewTicker(dueEvery)
		defer tick.Stop()
		var asked time.Time
		for {
			if now := e.now(); now.Sub(asked) >= policyEvery {
				asked = now
				e.askPolicies(ctx)
			}
			e.StartDue()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-e.live.Done():
				return
			}
		}
	})
}

// askPolicies asks the Synchronizer for the policies. Without an answer, what it said before holds.
func (e *Engine) askPolicies(ctx context.Context) {
	if e.User() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dueEvery)
	defer cancel()
	if offers, err := e.Offers(ctx); err == nil {
		e.learnPolicies(offers)
	}
}

// learnPolicies keeps what the offers say of backups.
func (e *Engine) learnPolicies(offers []api.Offer) {
	next := policies{User: e.User(), Images: map[string]api.BackupPolicy{}}
	for _, o := range offers {
		if o.Backup != nil {
			next.Images[o.ImageID.String()] = *o.Backup
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.policies.User == next.User && maps.EqualFunc(e.policies.Images, next.Images, api.BackupPolicy.Equal) {
		return
	}
	if err := writeJSON(e.fsys, policiesFile, next); err != nil {
		e.log.Error("keep the policies of backups", "error", err)
		return
	}
	e.policies = next
}

// policy returns when backups of an image's VMs are due, as far as that is known.
func (e *Engine) policy(id image.UUID) (api.BackupPolicy, bool) {
	user := e.User()
	e.mu.Lock()
	defer e.mu.Unlock()
	p, ok := e.policies.Images[id.String()]
	return p, ok && user != "" && e.policies.User == user
}

// StartDue starts the backups that are due, each as an operation. One that is under way, or was paused, is left alone.
func (e *Engine) StartDue() {
	vms, err := e.store.VMs()
	if err != nil {
		e.log.Error("look which backups are due", "error", err)
		return
	}
	for _, vm := range vms {
		if !e.due(vm) || e.tried(vm) {
			continue
		}
		if _, err := e.Start(Request{Kind: Backup, VM: vm.Name, Scheduled: true}); err != nil {
			e.log.Error("start a backup that is due", "vm", vm.Name, "error", err)
		}
	}
}

// due reports whether a backup of a VM is: the last one is long enough ago, or the installation of a VM that has none.
func (e *Engine) due(vm deploy.VM) bool {
	p, ok := e.policy(vm.ImageID)
	if !ok || p.Every <= 0 {
		return false
	}
	last := vm.Current.Installed
	if vm.Backup != nil && !vm.Backup.Made.IsZero() {
		last = vm.Backup.Made
	}
	gone := e.now().Sub(last)
	return gone >= time.Duration(p.Every)*time.Minute || gone < 0 // the clock was wrong then, or is now
}

// tried reports whether there is a backup of a VM that is under way, or was paused, or failed a short while ago.
func (e *Engine) tried(vm deploy.VM) bool {
	for _, o := range e.Operations() {
		s := o.Status()
		if s.Request.Kind != Backup || s.Request.VM != vm.Name || s.State == Finished {
			continue
		}
		if s.State != Failed || e.now().Sub(s.Ended) < againAfter {
			return true
		}
	}
	return false
}
