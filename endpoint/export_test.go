package endpoint

import "disksync/deploy"

// Store returns the engine's disks.
func (e *Engine) Store() *deploy.Store { return e.store }
