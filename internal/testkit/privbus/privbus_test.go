package privbus_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
	"disksync/internal/testkit/privbus"
)

const serviceName = "com.example.privbus"

// policy lets everybody offer and call the test service.
const policy = `<busconfig>
  <policy context="default">
    <allow own="` + serviceName + `"/>
    <allow send_destination="` + serviceName + `"/>
  </policy>
</busconfig>
`

// shortDir returns a folder for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	testkit.Tool(t, privbus.Daemon)
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func writePolicy(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start starts a bus that the test stops at its end.
func start(t *testing.T, kind privbus.Kind, policies ...string) *privbus.Bus {
	t.Helper()
	bus, err := privbus.Start(shortDir(t), kind, policies...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bus.Stop(); err != nil {
			t.Error(err)
		}
	})
	return bus
}

func connect(t *testing.T, bus *privbus.Bus) *dbus.Conn {
	t.Helper()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// errorName returns the D-Bus name of an error, "" for nil.
func errorName(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	failure, ok := errors.AsType[dbus.Error](err)
	if !ok {
		t.Fatalf("not an answer of the bus: %v", err)
	}
	return failure.Name
}

func TestRules(t *testing.T) {
	const denied = "org.freedesktop.DBus.Error.AccessDenied"
	tests := []struct {
		name     string
		kind     privbus.Kind
		policies []string
		wantOwn  string // error of owning the name
		wantCall string // error of calling a method of it
	}{
		{name: "session", kind: privbus.Session},
		{name: "system without policy", kind: privbus.System, wantOwn: denied, wantCall: denied},
		{name: "system with policy", kind: privbus.System, policies: []string{policy}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var files []string
			for _, p := range test.policies {
				files = append(files, writePolicy(t, p))
			}
			bus := start(t, test.kind, files...)
			server, client := connect(t, bus), connect(t, bus)

			_, err := server.RequestName(serviceName, dbus.NameFlagDoNotQueue)
			if got := errorName(t, err); got != test.wantOwn {
				t.Errorf("own the name: %q, want %q", got, test.wantOwn)
			}
			err = client.Object(server.Names()[0], "/").Call("org.freedesktop.DBus.Peer.Ping", 0).Err
			if got := errorName(t, err); got != test.wantCall {
				t.Errorf("call: %q, want %q", got, test.wantCall)
			}
			if err := client.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
				t.Errorf("talk to the bus: %v", err)
			}
		})
	}
}

func TestEnv(t *testing.T) {
	session, system := start(t, privbus.Session), start(t, privbus.System)
	want := []string{
		"DBUS_SESSION_BUS_ADDRESS=" + session.Address,
		"DBUS_SYSTEM_BUS_ADDRESS=" + system.Address,
	}
	if diff := cmp.Diff(want, append(session.Env(), system.Env()...)); diff != "" {
		t.Error(diff)
	}
	if session.Address == system.Address {
		t.Error("two buses have the same address")
	}
}

func TestOtherToolsUseTheBus(t *testing.T) {
	gdbus := testkit.Tool(t, "gdbus")
	bus := start(t, privbus.Session)
	cmd := exec.Command(gdbus, "call", "--session", "--dest", "org.freedesktop.DBus",
		"--object-path", "/", "--method", "org.freedesktop.DBus.NameHasOwner", "org.freedesktop.DBus")
	cmd.Env = append(os.Environ(), bus.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if diff := cmp.Diff("(true,)\n", string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestStop(t *testing.T) {
	bus := start(t, privbus.Session)
	conn := connect(t, bus)
	var pid uint32
	err := conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, "org.freedesktop.DBus").Store(&pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(pid), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there after Stop: %v", pid, err)
	}
	if err := bus.Stop(); err != nil {
		t.Errorf("Stop again: %v", err)
	}
	if _, err := dbus.Connect(bus.Address); err == nil {
		t.Error("a stopped bus takes connections")
	}
}

func TestStartFails(t *testing.T) {
	long := filepath.Join(shortDir(t), strings.Repeat("x", 120))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		dir    string
		policy string
		want   string
	}{
		{name: "path too long for a socket", dir: long, want: "at most 107"},
		{name: "no such folder", dir: filepath.Join(shortDir(t), "absent"), want: "no such file"},
		{name: "no such policy", dir: shortDir(t), policy: "/nonexistent/policy.conf", want: "/nonexistent/policy.conf"},
		{name: "broken policy", dir: shortDir(t), policy: writePolicy(t, "<busconfig>"), want: "did not say where it listens"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var policies []string
			if test.policy != "" {
				policies = append(policies, test.policy)
			}
			bus, err := privbus.Start(test.dir, privbus.Session, policies...)
			if err == nil {
				_ = bus.Stop()
				t.Fatal("the bus started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not mention %q", err, test.want)
			}
		})
	}
}

// An address is escaped once for D-Bus and once for XML.
func TestOddFolderName(t *testing.T) {
	dir := filepath.Join(shortDir(t), "a b&<ü,;=%")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bus, err := privbus.Start(dir, privbus.Session)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.Stop(); err != nil {
		t.Error(err)
	}
}

// Without dbus-daemon there is an error, not a hang.
func TestNoDaemon(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := privbus.Start(t.TempDir(), privbus.Session)
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Start: %v, want %v", err, exec.ErrNotFound)
	}
}
