package dbusapi

import (
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/agefile"
	"disksync/endpoint"
	"disksync/internal/testkit"
)

// TestLenderHasLeft: of somebody who left the bus before anybody watched, nothing is kept.
func TestLenderHasLeft(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e, err := endpoint.Open(t.Context(), endpoint.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	key, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l := newLenders(conn, e)
	defer l.close()
	if got, err := l.lend(conn.Names()[0], key.Secret()); err != nil || len(got) != 1 || got[0] != key.Recipient() || len(l.watched) != 1 {
		t.Errorf("%v, %v; %d are watched", got, err, len(l.watched))
	}
	if got, err := l.lend(":1.4000000000", key.Secret()); err == nil || len(l.watched) != 1 {
		t.Errorf("%v, %v; %d are watched", got, err, len(l.watched))
	}
	if _, err := l.lend(":1.4000000000", "no key"); err == nil || len(l.watched) != 1 {
		t.Errorf("%v; %d are watched", err, len(l.watched))
	}
}
