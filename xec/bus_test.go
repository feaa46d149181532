package xec_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/internal/testkit"
	"disksync/xec"
)

const serviceUnknown = "org.freedesktop.DBus.Error.ServiceUnknown: The name " + testService +
	" was not provided by any .service files\n"

// A service that appears while xec waits is used as if it had been there.
func TestWaitsForTheService(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"call", []string{"add", "1", "2"}, "3\n"},
		{"get", []string{"get", "name"}, "first\n"},
		{"get of an interface", []string{"-i", configIface, "get", "name"}, "first\n"},
		{"set", []string{"set", "name", "x"}, ""},
		{"list", []string{"--list-interfaces"}, introspector + "\n" + propsIface + "\n" + typesIface + "\n" +
			typesIface + ".nothing\n" + configIface + "\n" + shadowIface + "\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bus := testkit.StartBus(t, testkit.SessionBus)
			var stdout, stderr bytes.Buffer
			var attempts []int
			p := quietProgram(&stdout, &stderr, bus.Env())
			p.Pause = func(_ context.Context, attempt int) bool {
				attempts = append(attempts, attempt)
				if attempt == 2 {
					startService(t, bus)
				}
				return true
			}
			exit := p.Run(context.Background(), append([]string{"--session", "-s", testService}, test.args...))
			check(t, printed(test.want), outcome{stdout.String(), stderr.String(), exit})
			if len(attempts) != 3 {
				t.Errorf("paused before attempts %v, want three pauses", attempts)
			}
		})
	}
}

func TestServiceThatNeverComes(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	for _, args := range [][]string{{}, {"getall"}, {"get", "name"}, {"set", "name", "x"}, {"shared"}, {"--list-methods"}} {
		got := run(bus.Env(), append([]string{"--session", "-s", testService}, args...)...)
		check(t, answered(serviceUnknown), got)
	}
	// The short form of the name is completed.
	check(t, answered(serviceUnknown), run(bus.Env(), "--session", "-s", "xectest"))
}

// The default is to wait for about five seconds.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := xec.NewProgram(nil, nil)
		start := time.Now()
		attempt := 0
		for p.Pause(t.Context(), attempt) {
			attempt++
		}
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("waited %v in %d pauses", waited, attempt)
		}
	})
}

func TestPauseEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if xec.NewProgram(nil, nil).Pause(ctx, 0) {
		t.Error("another attempt after the context has ended")
	}
}

func TestStandardInterfacesOfTheBus(t *testing.T) {
	for _, b := range buses {
		t.Run(b.name, func(t *testing.T) {
			bus := testkit.StartBus(t, b.kind)
			args := append(append([]string{}, b.options...), "-s", "org.freedesktop.DBus")
			check(t, printed("true\n"), run(bus.Env(), append(args, "NameHasOwner", "org.freedesktop.DBus")...))
		})
	}
}

// A system bus without a policy for the service forbids to call it.
func TestForbiddenByPolicy(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SystemBus)
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	newService().export(t, conn)
	got := run(bus.Env(), "-s", conn.Names()[0], "-o", "/", "shared")
	if want := "org.freedesktop.DBus.Error.AccessDenied: "; !strings.HasPrefix(got.Stdout, want) || got.Exit != 1 {
		t.Errorf("got %+v, want an answer that begins with %q", got, want)
	}
}

func TestUniqueName(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	newService().export(t, conn)
	check(t, printed("types\n"), run(bus.Env(), "--session", "-s", conn.Names()[0], "shared"))
}

func TestServiceNames(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	bad := []string{"", ".", "a.", ".a", "a..b", "1.2", "a.2b", "a.b c", "a.ü", "a.b/c", ":", ":1", "a.:b",
		"a." + strings.Repeat("b", 254)}
	for _, name := range bad {
		want := complained("xec: \"" + name + "\" is not the name of a service\n")
		if !strings.Contains(name, ".") && name != "" {
			want = complained("xec: \"com.citrix.xenclient." + name + "\" is not the name of a service\n")
		}
		check(t, want, run(bus.Env(), "--session", "-s", name))
	}
	for _, name := range []string{"a-b.c_d", ":1.999", "A.B1.C2", "_a._b", "a." + strings.Repeat("b", 253)} {
		got := run(bus.Env(), "--session", "-s", name)
		if want := "org.freedesktop.DBus.Error.ServiceUnknown: "; !strings.HasPrefix(got.Stdout, want) {
			t.Errorf("%s: got %+v, want an answer that begins with %q", name, got, want)
		}
	}
}

func TestUnreachableBus(t *testing.T) {
	dir, err := os.MkdirTemp("", "xec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	dead := filepath.Join(dir, "dead")
	dial := "dial unix " + dead + ": connect: no such file or directory; is it running?\n"
	tests := []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"system bus", []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + dead}, nil,
			"xec: cannot reach the system bus: " + dial},
		{"session bus", []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + dead}, []string{"--session", "getall"},
			"xec: cannot reach the session bus: " + dial},
		{"first of several addresses", []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + dead + ";unix:abstract=xec-test-none"}, nil,
			"xec: cannot reach the system bus: " + dial},
		{"session bus of the login", []string{"XDG_RUNTIME_DIR=" + dir}, []string{"--session"},
			"xec: cannot reach the session bus: dial unix " + dir + "/bus: connect: no such file or directory; is it running?\n"},
		{"no session bus", nil, []string{"--session"},
			"xec: no session bus: DBUS_SESSION_BUS_ADDRESS is not set\n"},
		{"address without path", []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:guid=1"}, nil,
			"xec: cannot reach the system bus: address unix:guid=1 has neither path nor abstract; is it running?\n"},
		{"empty addresses", []string{"DBUS_SYSTEM_BUS_ADDRESS=;"}, nil,
			"xec: cannot reach the system bus: empty address; is it running?\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, complained(test.want), run(test.env, test.args...))
		})
	}
}

// The addresses of a list are tried one after the other.
func TestSecondAddress(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SystemBus, systemPolicy)
	startService(t, bus)
	env := []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent/bus;nonsense:;" + bus.Address}
	check(t, printed("first\n"), run(env, "-s", testService, "get", "name"))
}

// A bus that takes the connection and then says nothing is given up.
func TestSilentBus(t *testing.T) {
	dir, err := os.MkdirTemp("", "xec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	address := filepath.Join(dir, "bus")
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel() // in the place of the deadline, which is longer than a test may take
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Read(make([]byte, 1)); err != nil { // xec has begun to introduce itself
			t.Error(err)
		}
	}()
	var stdout, stderr bytes.Buffer
	exit := quietProgram(&stdout, &stderr, []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + address}).Run(ctx, nil)
	want := complained("xec: cannot reach the system bus: no answer from unix:path=" + address +
		": context canceled; is it running?\n")
	check(t, want, outcome{stdout.String(), stderr.String(), exit})
	<-done
}

// A service that goes away in the middle of a call is an answer of the bus.
func TestServiceThatGoesAway(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus)
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	vanish := map[string]any{"Get": func(string, string) (dbus.Variant, *dbus.Error) {
		_ = conn.Close()
		return dbus.MakeVariant(""), nil
	}}
	if err := conn.ExportMethodTable(vanish, "/", propsIface); err != nil {
		t.Fatal(err)
	}
	got := run(bus.Env(), "--session", "-s", conn.Names()[0], "-i", "a.b", "get", "name")
	if want := "org.freedesktop.DBus.Error.NoReply: "; !strings.HasPrefix(got.Stdout, want) || got.Exit != 1 {
		t.Errorf("got %+v, want an answer that begins with %q", got, want)
	}
}

func TestNothingOfTheBusIsNeeded(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want outcome
	}{
		{"domain", []string{"-t", "3", "getall"}, complained("xec: cannot reach domain 3: buses of other domains " +
			"were reached through argo, which this system does not have\n")},
		{"no domain", []string{"-t", "x", "--session"},
			complained("xec: no session bus: DBUS_SESSION_BUS_ADDRESS is not set\n")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, test.want, run(nil, test.args...))
		})
	}
}

// fullDisk is a file that takes nothing.
type fullDisk struct{ err error }

func (f fullDisk) Write([]byte) (int, error) { return 0, f.err }

// Results that cannot be written are a failure.
func TestOutputThatFails(t *testing.T) {
	var stderr bytes.Buffer
	p := quietProgram(nil, &stderr, nil)
	p.Stdout = fullDisk{os.ErrClosed}
	exit := p.Run(t.Context(), []string{"--help"})
	check(t, complained("xec: write the result: file already closed\n"), outcome{"", stderr.String(), exit})
}
