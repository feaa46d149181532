package endpoint

import (
	"context"

	"disksync/deploy"
	"disksync/image"
)

// Quiesce and SwapperOf are for tests what backups use.
func (e *Engine) Quiesce(ctx context.Context, vm image.UUID) (thaw func(), c image.Consistency) {
	return e.quiesce(ctx, vm)
}

// SwapperOf returns the disks of a VM that runs.
func (e *Engine) SwapperOf(vm image.UUID) deploy.Swapper { return e.swapper(vm) }

// StoreOf returns the engine's store.
func (e *Engine) StoreOf() *deploy.Store { return e.store }
