package udisks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Mount options: nothing on a medium is written to, run, or given rights by its owner or mode.
const mountOptions = "ro,nosuid,nodev,noexec"

// MountedSo reports whether the options of a mount are at least those of Mount.
func MountedSo(options []string) bool {
	for want := range strings.SplitSeq(mountOptions, ",") {
		if !slices.Contains(options, want) {
			return false
		}
	}
	return true
}

// mountTime is how long it may take to mount: a disc has to be spun up, and a large NTFS or exFAT volume to be looked through.
const mountTime = 90 * time.Second

// Errors of Mount, for people. Each wraps what UDisks2 said.
var (
	ErrNotAllowed = errors.New("UDisks2 does not let this service mount media")
	ErrNoDriver   = errors.New("the kernel cannot read its file system")
	ErrMounted    = errors.New("somebody else mounted it at the same moment")
	ErrBusy       = errors.New("it is in use")
	ErrGone       = errors.New("it is gone")
)

// Mount mounts a volume so that nothing on it is written to, run or trusted, without asking anybody, and returns the folder.
func (c *Client) Mount(ctx context.Context, path string) (dir string, err error) {
	options := map[string]dbus.Variant{
		"options": dbus.MakeVariant(mountOptions), "auth.no_user_interaction": dbus.MakeVariant(true),
	}
	err = c.call(ctx, path, "Mount", options, &dir)
	return dir, err
}

// Unmount unmounts a volume.
func (c *Client) Unmount(ctx context.Context, path string) error {
	return c.call(ctx, path, "Unmount", map[string]dbus.Variant{"auth.no_user_interaction": dbus.MakeVariant(true)})
}

func (c *Client) call(ctx context.Context, path, method string, options map[string]dbus.Variant, out ...any) error {
	conn := c.connection()
	if conn == nil || !dbus.ObjectPath(path).IsValid() {
		return ErrGone
	}
	ctx, cancel := context.WithTimeout(ctx, mountTime)
	defer cancel()
	err := conn.Object(service, dbus.ObjectPath(path)).CallWithContext(ctx, ifaceFS+"."+method, 0, options).Store(out...)
	return explain(err)
}

// explain tells the errors of UDisks2 apart.
func explain(err error) error {
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return err
	}
	said := e.Name
	if len(e.Body) > 0 {
		if text, ok := e.Body[0].(string); ok {
			said = text
		}
	}
	kind := error(nil)
	switch name, _ := strings.CutPrefix(e.Name, errPrefix); name {
	case "NotAuthorized", "NotAuthorizedCanObtain", "NotAuthorizedDismissed", "OptionNotPermitted":
		kind = ErrNotAllowed
	case "AlreadyMounted":
		kind = ErrMounted
	case "DeviceBusy":
		kind = ErrBusy
	case "NotMounted", errNoOwner, errUnknown, errNoObject:
		kind = ErrGone
	case "Failed":
		if strings.Contains(said, "not configured in kernel") || strings.Contains(said, "unknown filesystem type") {
			kind = ErrNoDriver
		}
	}
	if kind == nil {
		return errors.New(said)
	}
	return fmt.Errorf("%w (%s)", kind, said)
}
