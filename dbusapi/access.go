package dbusapi

import (
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/godbus/dbus/v5"
)

// access decides who may change things: root, the user that the service runs as, and the members of a group. Everybody may
// look. The policy file says the same to the bus; here it holds on every bus.
type access struct {
	conn  *dbus.Conn
	group string // may be empty
}

// check returns nil when the sender of a message may change things.
func (a *access) check(sender dbus.Sender) *dbus.Error {
	uid, groups, err := a.credentials(string(sender))
	if err != nil {
		return dbusError(errAccessDenied, "cannot find out who is calling: %v", err)
	}
	if uid == 0 || int(uid) == os.Getuid() {
		return nil
	}
	if a.group != "" {
		if g, err := user.LookupGroup(a.group); err == nil {
			if gid, err := strconv.ParseUint(g.Gid, 10, 32); err == nil && slices.Contains(groups, uint32(gid)) {
				return nil
			}
		}
	}
	return dbusError(errAccessDenied, "only root and members of group %q may do this", a.group)
}

// credentials asks the bus who a sender is. A bus that does not tell the groups is helped out by the user database.
func (a *access) credentials(sender string) (uid uint32, groups []uint32, err error) {
	var creds map[string]dbus.Variant
	err = a.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionCredentials", 0, sender).Store(&creds)
	if err != nil {
		return 0, nil, err
	}
	if err := dbus.Store([]any{creds["UnixUserID"].Value()}, &uid); err != nil {
		return 0, nil, err
	}
	if v, ok := creds["UnixGroupIDs"].Value().([]uint32); ok {
		return uid, v, nil
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return uid, nil, nil //nolint:nilerr // a user without an entry is in no group
	}
	ids, err := u.GroupIds()
	if err != nil {
		return uid, nil, nil //nolint:nilerr // as above
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return uid, groups, nil
}
