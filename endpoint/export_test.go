package endpoint

import (
	"context"

	"disksync/deploy"
)

// Store returns the engine's disks.
func (e *Engine) Store() *deploy.Store { return e.store }

// AskPolicies asks the Synchronizer when backups are due.
func (e *Engine) AskPolicies(ctx context.Context) { e.askPolicies(ctx) }
