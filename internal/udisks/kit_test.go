package udisks_test

import (
	"testing"

	"github.com/godbus/dbus/v5"
)

type faces = map[string]map[string]dbus.Variant

func path(name string) dbus.ObjectPath {
	return dbus.ObjectPath("/org/freedesktop/UDisks2/block_devices/" + name)
}

func variant(v any) dbus.Variant { return dbus.MakeVariant(v) }

func connect(t *testing.T, address string) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
