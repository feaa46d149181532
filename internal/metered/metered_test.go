package metered_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"disksync/internal/metered"
	"disksync/internal/testkit"
)

// manager is a NetworkManager on a private bus.
type manager struct {
	conn  *dbus.Conn
	props *prop.Properties
}

const (
	service = "org.freedesktop.NetworkManager"
	path    = "/org/freedesktop/NetworkManager"
)

func connect(t *testing.T, bus *testkit.Bus) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func startManager(t *testing.T, bus *testkit.Bus, metered uint32) *manager {
	t.Helper()
	m := &manager{conn: connect(t, bus)}
	var err error
	m.props, err = prop.Export(m.conn, path, prop.Map{service: {"Metered": {Value: metered, Emit: prop.EmitTrue}}})
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := m.conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	return m
}

// watch starts a watcher and returns what it tells.
func watch(t *testing.T, address string) <-chan bool {
	t.Helper()
	told := make(chan bool, 100)
	ctx, stop := context.WithCancel(t.Context())
	wait := metered.Watch(ctx, func(name string) string {
		if name == "DBUS_SYSTEM_BUS_ADDRESS" {
			return address
		}
		return ""
	}, slog.New(slog.DiscardHandler), func(m bool) { told <- m })
	t.Cleanup(func() {
		stop()
		wait()
	})
	return told
}

// next waits until it is told so.
func next(t *testing.T, told <-chan bool, want bool) {
	t.Helper()
	late := time.After(testkit.Patience)
	for {
		select {
		case got := <-told:
			if got == want {
				return
			}
		case <-late:
			t.Fatalf("it is not said that the connection is metered: %v", want)
		}
	}
}

func TestWatch(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	m := startManager(t, bus, 1)
	told := watch(t, bus.Address)
	if len(told) != 1 {
		t.Fatalf("told %d times before it returned", len(told))
	}
	next(t, told, true)
	for _, change := range []struct {
		value uint32
		want  bool
	}{{2, false}, {3, true}, {4, false}, {1, true}, {0, false}, {1, true}, {99, false}, {3, true}} {
		m.props.SetMust(service, "Metered", change.value)
		next(t, told, change.want)
	}
	// NetworkManager goes, and comes back.
	m.conn.Close()
	next(t, told, false)
	m = startManager(t, bus, 1)
	next(t, told, true)
	if _, err := m.conn.ReleaseName(service); err != nil {
		t.Fatal(err)
	}
	next(t, told, false)
}

// TestNobodyThere: where no NetworkManager is, or no bus, nothing is metered.
func TestNobodyThere(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	next(t, watch(t, bus.Address), false)
	next(t, watch(t, "unix:path=/nowhere"), false)
	told := watch(t, bus.Address)
	next(t, told, false)
	startManager(t, bus, 3) // it is started later
	next(t, told, true)
	if err := bus.Stop(); err != nil {
		t.Fatal(err)
	}
	next(t, told, false)
}

// TestOthersSaySo: what somebody else says is not believed, and odd answers are none.
func TestOthersSaySo(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	m := startManager(t, bus, 2)
	told := watch(t, bus.Address)
	next(t, told, false)
	stranger := connect(t, bus)
	for range 50 {
		if err := stranger.Emit(path, "org.freedesktop.DBus.Properties.PropertiesChanged", service, map[string]dbus.Variant{"Metered": dbus.MakeVariant(uint32(1))},
			[]string{}); err != nil {
			t.Fatal(err)
		}
	}
	m.props.SetMust(service, "Metered", uint32(4)) // behind the others
	next(t, told, false)
	for len(told) > 0 {
		if <-told {
			t.Error("a stranger was believed")
		}
	}
	text := connect(t, bus)
	if _, err := m.conn.ReleaseName(service); err != nil {
		t.Fatal(err)
	}
	if _, err := prop.Export(text, path, prop.Map{service: {"Metered": {Value: "yes", Emit: prop.EmitTrue}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := text.RequestName(service, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	next(t, watch(t, bus.Address), false)
}
