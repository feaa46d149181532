package testkit

import (
	"os"
	"testing"

	"disksync/internal/testkit/privbus"
)

// Bus is a private D-Bus bus. It is safe for concurrent use.
type Bus = privbus.Bus

// BusKind says how strict a bus is.
type BusKind = privbus.Kind

// The kinds of buses.
const (
	// SessionBus lets everybody do everything, as a user's session bus does.
	SessionBus = privbus.Session
	// SystemBus forbids to own names and to call methods, except where a policy
	// file allows it, as the system bus does.
	SystemBus = privbus.System
)

// StartBus starts a private bus that lives as long as the test. The bus accepts
// connections when StartBus returns. policyFiles are D-Bus configuration files, as
// a package installs them for its service; they are added to the bus's own.
func StartBus(t testing.TB, kind BusKind, policyFiles ...string) *Bus {
	t.Helper()
	Tool(t, privbus.Daemon)
	// Not t.TempDir: with the name of the test in it the path can be too long for
	// a socket.
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	bus, err := privbus.Start(dir, kind, policyFiles...)
	t.Cleanup(func() {
		if bus != nil {
			if err := bus.Stop(); err != nil {
				t.Errorf("stop the bus: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return bus
}
