package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/internal/testkit"
)

// TestStranger: with the shipped policy, somebody who is neither root nor in the group may look, and is told what is missing for
// the rest.
func TestStranger(t *testing.T) {
	testkit.Root(t, "it acts as two users")
	const group = "games" // every Debian has it; the shipped one it need not have
	b, err := os.ReadFile(filepath.Join(root, "dist", "dbus", "com.citrix.xenclient.disksyncmgr.conf"))
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy.conf")
	if err := os.WriteFile(policy, []byte(strings.ReplaceAll(string(b), `group="disksync"`, `group="`+group+`"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	bus := testkit.StartBus(t, testkit.SystemBus, policy)
	socket, _, _ := strings.Cut(strings.TrimPrefix(bus.Address, "unix:path="), ",")
	if err := os.Chmod(filepath.Dir(socket), 0o755); err != nil { //nolint:gosec // that is what a system bus is for
		t.Fatal(err)
	}
	serve := exec.Command(shipped.Path(t, "disksyncmgr"), "serve", "--group", group, "--state", filepath.Join(t.TempDir(), "state"))
	serve.Env = append(os.Environ(), bus.Env()...)
	testkit.StartProgram(t, serve)
	const nobody = 65534
	for _, c := range []struct {
		who    string
		groups []uint32
		args   []string
		exit   int
		says   string
	}{
		{"stranger", nil, []string{"vms", "--json"}, 0, "[]\n"},
		{"stranger", nil, []string{"status", "--json"}, 0, "[]\n"},
		{"stranger", nil, []string{"download", "win7"}, 3, "  code: DS-ACCESS-DENIED\n"},
		{"stranger", nil, []string{"download", "win7"}, 3, "does not take this from you: the rules of the bus are against it\n"},
		{"stranger", nil, []string{"remove", "win7", "--yes"}, 3, "  next: do it as root, or as a member of the service's group"},
		{"member", []uint32{60}, []string{"remove", "win7", "--yes"}, 8, "  code: DS-NO-VM\n"},
	} {
		cmd := exec.Command(shipped.Path(t, "disksyncmgr"), c.args...)
		cmd.Env = append(os.Environ(), bus.Env()...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: c.groups}}
		out, _ := cmd.CombinedOutput() // the status is looked at
		if got := cmd.ProcessState; got == nil || got.ExitCode() != c.exit || !strings.Contains(string(out), c.says) {
			t.Errorf("%s, %v: %v, want exit status %d and %q:\n%s", c.who, c.args, got, c.exit, c.says, out)
		}
	}
}
