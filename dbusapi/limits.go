package dbusapi

import (
	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
)

// Limits of what callers may leave with the service. They are far above every use, and keep a caller in a loop from filling
// memory, or a group's file from growing larger than can be read again.
const (
	maxGroups  = 512  // that are not finished
	maxDisks   = 64   // of a group
	maxImages  = 128  // of a group
	maxText    = 1024 // bytes of a URL, a path, a name
	maxRequest = 64 << 10
	// maxOpenDisks is how many disks are open for callers to read in.
	maxOpenDisks = 16

	errLimits = "org.freedesktop.DBus.Error.LimitsExceeded"
)

// roomForOne returns an error when there are too many groups for one more.
func (s *server) roomForOne() *dbus.Error {
	n := 0
	for _, op := range s.e.Operations() {
		if op.Status().State != endpoint.Finished {
			n++
		}
	}
	if n >= maxGroups {
		return dbusError(errLimits, "there are %d disk groups that are not finished; delete some", n)
	}
	return nil
}

func checkTexts(texts ...string) *dbus.Error {
	for _, t := range texts {
		if len(t) > maxText {
			return dbusError(errFailed, "111:%s: a text of %d bytes, at most %d make sense", endpoint.ReasonInvalidRequest, len(t), maxText)
		}
	}
	return nil
}
