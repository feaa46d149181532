package cache

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// forgetTime is how long the kernel may take to forget a drive that was pulled out, after reads of it begin to fail.
	forgetTime = time.Second
	// forgetLook is how often it is looked whether it has.
	forgetLook = 20 * time.Millisecond
)

// FoundBy says who found the medium, so that the Sources that follow tell a bad sector from a medium that is no longer there.
func (inv *Inventory) FoundBy(f Finder) { inv.finder = f }

// pulled reports whether an error that a bad sector makes too was made by a medium that was pulled out. The kernel says nothing else of
// a read in the middle of which that happened, nor does a file system whose drive has gone. It waits for up to forgetTime, no longer
// than many drives try to read a bad sector; where the medium has no number it does not wait.
func (s *Source) pulled(ctx context.Context, err error) bool {
	number, _, _ := strings.Cut(s.medium.ID, ":")
	if number == "" || !errors.Is(err, unix.EIO) {
		return false
	}
	late := time.NewTimer(forgetTime)
	defer late.Stop()
	look := time.NewTicker(forgetLook)
	defer look.Stop()
	for s.finder.Sequence(s.medium.Drive) == number {
		select {
		case <-look.C:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}
