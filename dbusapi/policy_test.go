package dbusapi_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/internal/testkit"
)

const (
	policyFile     = "../dist/dbus/com.citrix.xenclient.disksyncmgr.conf"
	activationFile = "../dist/dbus/com.citrix.xenclient.disksyncmgr.service"
)

// Users and groups that every Debian has.
const (
	nobody     = 65534 // uid and gid
	games      = "games"
	gamesID    = 60
	daemonUser = 1 // uid, and gid of its own group
)

// withGroup returns a copy of the policy file for another group than the shipped one, which a machine need not have.
func withGroup(t *testing.T, group string) string {
	t.Helper()
	b, err := os.ReadFile(policyFile)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), `group="disksync"`, `group="`+group+`"`)
	if text == string(b) {
		t.Fatal("the policy has no rule for the group")
	}
	name := filepath.Join(t.TempDir(), "policy.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// systemBus starts a bus with the rules of the system bus, which every user can reach.
func systemBus(t *testing.T, policy string) *testkit.Bus {
	t.Helper()
	bus := testkit.StartBus(t, testkit.SystemBus, policy)
	path, _, _ := strings.Cut(strings.TrimPrefix(bus.Address, "unix:path="), ",")
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // that is what a system bus is for
		t.Fatal(err)
	}
	return bus
}

// caller is somebody who calls the service.
type caller struct {
	uid, gid uint32
	groups   []uint32
}

// call calls a method with gdbus as the caller.
func (c caller) call(t *testing.T, bus *testkit.Bus, path, method string, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, "gdbus"), append([]string{"call", "--system", "-d", service, "-o", path, "-m", method}, args...)...)
	cmd.Env = append(os.Environ(), bus.Env()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.gid, Groups: c.groups}}
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// Every method of ours, with arguments that it takes. What is not listed as a look is a change.
var (
	looks = []struct {
		path, method string
		args         []string
	}{
		{"/", "org.freedesktop.DBus.Introspectable.Introspect", nil},
		{"/", "org.freedesktop.DBus.Peer.Ping", nil},
		{"/", propFace + ".GetAll", []string{confFace}},
		{"/", propFace + ".Get", []string{confFace, "enable-usb-cache"}},
		{"/", propFace + ".GetAll", []string{ownFace}},
		{"/", mainFace + ".list_disk_groups", nil},
		{"/", debugFace + ".dump_tasks", nil},
		{"/", ownFace + ".registration", nil},
		{"/", ownFace + ".operations", nil},
		{"/", ownFace + ".operation", []string{"GROUP"}},
		{"/", ownFace + ".vms", nil},
		{"GROUP", propFace + ".GetAll", []string{groupFace}},
		{"GROUP", groupFace + ".list_disks", nil},
		{"DISK", propFace + ".GetAll", []string{diskFace}},
		{"DISK", diskFace + ".list_images", nil},
	}
	changes = []struct {
		path, method string
		args         []string
	}{
		{"/", propFace + ".Set", []string{confFace, "enable-usb-cache", "<false>"}},
		{"/", mainFace + ".create_disk_group", nil},
		{"/", ownFace + ".probe", []string{"https://127.0.0.1:1"}},
		{"/", ownFace + ".register", []string{"https://127.0.0.1:1", strings.Repeat("ab", 32), "false"}},
		{"/", ownFace + ".login", []string{"alice", "secret"}},
		{"/", ownFace + ".logout", nil},
		{"/", ownFace + ".offers", nil},
		{"/", ownFace + ".backups", nil},
		{"/", ownFace + ".backups_of", []string{"win7"}},
		{"/", ownFace + ".open_disk", []string{"win7", "0", "system"}},
		{"/", ownFace + ".backup_keys", nil},
		{"/", ownFace + ".new_backup_key", []string{"false"}},
		{"/", ownFace + ".export_backup_keys", nil},
		{"/", ownFace + ".import_backup_keys", []string{"nothing"}},
		{"/", ownFace + ".lend_backup_keys", []string{"nothing"}},
		{"/", ownFace + ".return_backup_keys", []string{"@as []"}},
		{"/", ownFace + ".remove_backup_key", []string{"age1", "false"}},
		{"/", ownFace + ".backup_encryption", nil},
		{"/", ownFace + ".set_backup_encryption", []string{"false"}},
		{"/", ownFace + ".media", []string{"@as []"}},
		{"/", ownFace + ".media_for", []string{"@as []", "win7"}},
		{"/", ownFace + ".plan", []string{`'{"kind":"download"}'`}},
		{"/", ownFace + ".start", []string{`'{"kind":"verify"}'`}},
		{"/", ownFace + ".run", []string{"win7", "{}"}},
		{"/", ownFace + ".stop", []string{"win7", "true"}},
		{"/", ownFace + ".console", []string{"win7"}},
		{"/", ownFace + ".boot_trace", []string{"win7"}},
		{"/", ownFace + ".rollback", []string{"win7"}},
		{"/", ownFace + ".remove", []string{"win7"}},
		{"/", ownFace + ".export", []string{"win7", "system"}},
		{"GROUP", groupFace + ".create_disk", []string{"00000000-0000-0000-0000-000000000002", "down"}},
		{"GROUP", groupFace + ".start", nil},
		{"GROUP", groupFace + ".stop", nil},
		{"GROUP", groupFace + ".pause", nil},
		{"GROUP", groupFace + ".resume", nil},
		{"DISK", diskFace + ".create_image", []string{"u", "u", "", "", "", "", "false", ""}},
		{"GROUP", groupFace + ".delete", nil},
	}
)

// denied reports whether an answer says that the caller lacks the right, be it from the bus or from the service.
func denied(answer string) bool {
	return strings.Contains(answer, "org.freedesktop.DBus.Error.AccessDenied")
}

// TestRights calls every method as every kind of caller, with the real program on a bus with the shipped policy, and on one that
// lets everybody call everything, where the service is alone in saying no.
func TestRights(t *testing.T) {
	testkit.Root(t, "it acts as several users")
	t.Parallel()
	open := filepath.Join(t.TempDir(), "open.conf")
	rule := fmt.Sprintf(`<busconfig><policy context="default"><allow own=%q/><allow send_destination=%q/></policy></busconfig>`, service, service)
	if err := os.WriteFile(open, []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct{ name, policy string }{{"shipped policy", withGroup(t, games)}, {"open policy", open}} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			bus := systemBus(t, p.policy)
			cmd := exec.Command(shipped.Path(t, "disksyncmgr"), "serve", "--state", filepath.Join(t.TempDir(), "state"), "--group", games)
			cmd.Env = append(os.Environ(), bus.Env()...)
			s := testkit.StartProgram(t, cmd)
			if s.Line != "serving "+service {
				t.Fatalf("it says %q", s.Line)
			}
			for _, c := range []struct {
				name string
				caller
				may bool
			}{
				{"root", caller{}, true},
				{"member", caller{nobody, nobody, []uint32{gamesID}}, true},
				{"member by the main group", caller{nobody, gamesID, nil}, true},
				{"stranger", caller{nobody, nobody, nil}, false},
				{"member of other groups", caller{daemonUser, daemonUser, []uint32{nobody, 100}}, false},
			} {
				t.Run(c.name, func(t *testing.T) { checkRights(t, bus, c.caller, c.may) })
			}
		})
	}
}

func checkRights(t *testing.T, bus *testkit.Bus, c caller, may bool) {
	root := caller{}
	result := func(path, method string, args ...string) string {
		out, ok := root.call(t, bus, path, method, args...)
		if !ok {
			t.Fatalf("%s: %s", method, out)
		}
		_, path, _ = strings.Cut(out, "'")
		path, _, _ = strings.Cut(path, "'")
		return path
	}
	group := result("/", mainFace+".create_disk_group")
	disk := result(group, groupFace+".create_disk", "00000000-0000-0000-0000-000000000001", "down")
	fill := strings.NewReplacer("GROUP", group, "DISK", disk)
	for _, m := range looks {
		var args []string
		for _, a := range m.args {
			args = append(args, fill.Replace(a))
		}
		if out, ok := c.call(t, bus, fill.Replace(m.path), m.method, args...); !ok {
			t.Errorf("looking with %s %v: %s", m.method, args, out)
		}
	}
	for _, m := range changes {
		out, ok := c.call(t, bus, fill.Replace(m.path), m.method, m.args...)
		if denied(out) == may {
			t.Errorf("%s: may %t, answer %s", m.method, may, out)
		}
		if !may && ok {
			t.Errorf("%s was done: %s", m.method, out)
		}
	}
	out, _ := root.call(t, bus, "/", propFace+".Get", confFace, "enable-usb-cache")
	if want := fmt.Sprintf("(<%t>,)\n", !may); out != want {
		t.Errorf("the setting is %s, want %s", out, want)
	}
	if _, ok := root.call(t, bus, "/", propFace+".Set", confFace, "enable-usb-cache", "<true>"); !ok {
		t.Error("cannot put the setting back")
	}
	if out, ok := root.call(t, bus, group, groupFace+".list_disks"); ok == may {
		t.Errorf("may %t, the group: %s", may, out)
	}
}

// TestEveryMethodHasItsRight: the two lists above have every method that the service describes.
func TestEveryMethodHasItsRight(t *testing.T) {
	r := newRig(t)
	listed := map[string]bool{}
	for _, m := range looks {
		listed[m.method] = true
	}
	for _, m := range changes {
		if listed[m.method] {
			t.Errorf("%s is both a look and a change", m.method)
		}
		listed[m.method] = true
	}
	group := must[string](r, "/", mainFace+".create_disk_group")
	disk := must[string](r, dbusPath(group), groupFace+".create_disk", "00000000-0000-0000-0000-000000000001", "down")
	n := 0
	for _, path := range []string{"/", group, disk} {
		for face, members := range r.describe(dbusPath(path)).members {
			for _, m := range members {
				name, ok := strings.CutPrefix(m, "method ")
				if !ok {
					continue
				}
				name, _, _ = strings.Cut(name, "(")
				n++
				if !listed[face+"."+name] {
					t.Errorf("%s.%s is in neither list", face, name)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d methods are described", n)
	}
}

// TestOnlyRootOwnsTheName: with the shipped policy nobody else can pass for the service.
func TestOnlyRootOwnsTheName(t *testing.T) {
	testkit.Root(t, "it acts as several users")
	t.Parallel()
	bus := systemBus(t, withGroup(t, games))
	cmd := exec.Command(testkit.Tool(t, "gdbus"), "call", "--system", "-d", "org.freedesktop.DBus", "-o", "/", "-m",
		"org.freedesktop.DBus.RequestName", service, "4")
	cmd.Env = append(os.Environ(), bus.Env()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{gamesID}}}
	out, err := cmd.CombinedOutput()
	if err == nil || !denied(string(out)) {
		t.Errorf("a member of the group gets the name: %s", out)
	}
	// And the service says what is missing where there is no policy at all.
	bare := testkit.StartBus(t, testkit.SystemBus)
	serve := exec.Command(shipped.Path(t, "disksyncmgr"), "serve", "--state", filepath.Join(t.TempDir(), "state"))
	serve.Env = append(os.Environ(), bare.Env()...)
	out, err = serve.CombinedOutput()
	if exit := serve.ProcessState.ExitCode(); err == nil || exit != 9 || !strings.Contains(string(out), "install the policy file") {
		t.Errorf("exit status %d: %s", exit, out)
	}
}

// TestActivation: the bus starts the service with the first call.
func TestActivation(t *testing.T) {
	b, err := os.ReadFile(activationFile)
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	const installed = "Exec=/usr/bin/disksyncmgr serve\n"
	ours := fmt.Sprintf("Exec=%s serve --session --state %s\n", shipped.Path(t, "disksyncmgr"), filepath.Join(data, "state"))
	text := strings.Replace(string(b), installed, ours, 1)
	if text == string(b) || !strings.Contains(text, "SystemdService=disksyncmgr.service\n") || !strings.Contains(text, "User=root\n") {
		t.Fatalf("the file is not as it was:\n%s", b)
	}
	services := filepath.Join(data, "dbus-1", "services")
	if err := os.MkdirAll(services, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(services, filepath.Base(activationFile)), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_DATA_DIRS", data)
	standard := filepath.Join(data, "standard.conf")
	if err := os.WriteFile(standard, []byte("<busconfig><standard_session_servicedirs/></busconfig>"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, bus: testkit.StartBus(t, testkit.SessionBus, standard)}
	if out, exit := r.xec("get", "enable-usb-cache"); exit != 0 || out != "true\n" {
		t.Fatalf("xec: %d %s", exit, out)
	}
	r.conn = r.dial()
	if got, want := property[string](r, "/", ownFace, "state-folder"), filepath.Join(data, "state"); got != want {
		t.Errorf("state folder %s, want %s", got, want)
	}
	// The bus does not end what it started; when it goes, the service goes.
	var pid int
	if err := r.conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, service).Store(&pid); err != nil {
		t.Fatal(err)
	}
	if err := r.bus.Stop(); err != nil {
		t.Fatal(err)
	}
	testkit.Until(r.t, "the service has ended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
