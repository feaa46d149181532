package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// TestMeteredService: the service follows what NetworkManager says, and its users are told.
func TestMeteredService(t *testing.T) {
	bus := testkit.StartBus(t, testkit.SessionBus) // on which a test may own NetworkManager's name
	env := append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const manager = "org.freedesktop.NetworkManager"
	props, err := prop.Export(conn, "/org/freedesktop/NetworkManager", prop.Map{manager: {"Metered": {Value: uint32(1), Emit: prop.EmitTrue}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(manager, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1))
	l.Assign(t, "win7", "alice", 0)
	serve := exec.Command(shipped.Path(t, "disksyncmgr"), "serve", "--state", filepath.Join(t.TempDir(), "state"))
	serve.Env = env
	testkit.StartProgram(t, serve)
	command := func(input string, args ...string) (*exec.Cmd, *testkit.Buffer) {
		out := new(testkit.Buffer)
		cmd := exec.Command(shipped.Path(t, "disksyncmgr"), args...)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(input), out, out
		return cmd, out
	}
	run := func(says, input string, args ...string) {
		t.Helper()
		cmd, out := command(input, args...)
		if err := cmd.Run(); err != nil || !strings.Contains(out.String(), says) {
			t.Fatalf("%v: %v, %q is not in %s", args, err, says, out)
		}
	}
	run("registered", "", "register", l.URL, "--fingerprint", l.Fingerprint.String())
	run("logged in", lab.Password, "login", "alice", "--password-stdin")
	run("the connection is metered; this goes ahead because it was asked for by name", "", "download", "win7")

	l.Publish(t, "win7", lab.Disk(2))
	cmd, out := command("", "update")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	says := func(text string) func() bool { return func() bool { return strings.Contains(out.String(), text) } }
	const held = "nothing is fetched now: the connection is metered"
	testkit.Until(t, "the update is held", says(held))
	run(held, "", "status")
	props.SetMust(manager, "Metered", uint32(4))
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if !says("it goes on")() || !says("VM win7 has version 2 of win7 now")() {
		t.Errorf("%s", out)
	}
	run("", "", "remove", "win7", "--yes")
}
