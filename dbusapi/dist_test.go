package dbusapi_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/internal/testkit"
)

const dist = "../dist"

// TestDistIsInstalledAsItSays runs the commands in dist/README.md, below another root, and looks whether all is where the
// programs of the system look for it.
func TestDistIsInstalledAsItSays(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(dist, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// The README is read in a folder that looks as the project does after "make build".
	work, sysroot := t.TempDir(), t.TempDir()
	if err := os.Symlink(filepath.Join(project, "dist"), filepath.Join(work, "dist")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(work, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Build(bin, "cmd/disksyncmgr", "cmd/synchronizer", "cmd/xec"); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(readme)) {
		command, ok := strings.CutPrefix(line, "    install ")
		if !ok {
			continue
		}
		n++
		words := strings.Fields(strings.ReplaceAll(command, " /", " "+sysroot+"/"))
		cmd := exec.Command("install", words...)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("install %v: %v: %s", words, err, out)
		}
	}
	if n != 9 {
		t.Errorf("%d commands to install", n)
	}
	checkInstalled(t, string(readme), sysroot)
	if t.Failed() {
		return
	}
	checkUnits(t, sysroot)
}

// checkInstalled wants every file of dist, and the table in the README to have no others.
func checkInstalled(t *testing.T, readme, sysroot string) {
	t.Helper()
	places := map[string]string{
		"dbus/com.citrix.xenclient.disksyncmgr.conf":    "usr/share/dbus-1/system.d",
		"dbus/com.citrix.xenclient.disksyncmgr.service": "usr/share/dbus-1/system-services",
		"systemd/disksyncmgr.service":                   "usr/lib/systemd/system",
		"systemd/synchronizer.service":                  "usr/lib/systemd/system",
		"sysusers.d/disksync.conf":                      "usr/lib/sysusers.d",
		"xen/block-disksync":                            "etc/xen/scripts",
	}
	err := filepath.WalkDir(dist, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "README.md" {
			return err
		}
		rel, err := filepath.Rel(dist, name)
		if err != nil {
			return err
		}
		if !strings.Contains(readme, "\n| `"+rel+"` | ") {
			t.Errorf("the README does not say what %s is for", rel)
		}
		place, ok := places[rel]
		if !ok {
			t.Errorf("nobody says where %s goes", rel)
		}
		delete(places, rel)
		st, err := os.Stat(filepath.Join(sysroot, place, d.Name()))
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(rel, "xen/") {
			mode = 0o755 // a program
		}
		if err == nil && st.Mode() != mode {
			t.Errorf("%s has mode %v", rel, st.Mode())
		}
		return err
	})
	if err != nil || len(places) > 0 {
		t.Errorf("not there: %v %v", places, err)
	}
}

// checkUnits has systemd read the units, and judge how much they may do.
func checkUnits(t *testing.T, sysroot string) {
	t.Helper()
	analyze := testkit.Tool(t, "systemd-analyze")
	for unit, limit := range map[string]string{"disksyncmgr.service": "26", "synchronizer.service": "12"} {
		name := filepath.Join(sysroot, "usr/lib/systemd/system", unit)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		// It looks for programs where they are to be installed.
		text := strings.ReplaceAll(string(b), "ExecStart=/usr/bin/", "ExecStart="+sysroot+"/usr/bin/")
		if text == string(b) {
			t.Errorf("%s starts nothing in /usr/bin", unit)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=no", name).CombinedOutput(); err != nil || strings.Contains(string(out), unit) {
			t.Errorf("%s: %v: %s", unit, err, out)
		}
		if out, err := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold="+limit, name).CombinedOutput(); err != nil {
			t.Errorf("%s may do too much: %v:\n%s", unit, err, out)
		}
	}
	// The names in one file are those in the others.
	for file, words := range map[string][]string{
		"dbus/com.citrix.xenclient.disksyncmgr.service": {"Name=" + service + "\n", "SystemdService=disksyncmgr.service\n"},
		"systemd/disksyncmgr.service":                   {"Type=dbus\n", "BusName=" + service + "\n", "StateDirectory=disksyncmgr\n"},
		"systemd/synchronizer.service":                  {"Type=notify\n", "User=synchronizer\n", "StateDirectory=synchronizer\n"},
		"sysusers.d/disksync.conf":                      {"\ng disksync ", "\nu synchronizer "},
		"dbus/com.citrix.xenclient.disksyncmgr.conf":    {`<policy group="disksync">`},
	} {
		b, err := os.ReadFile(filepath.Join(dist, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if !strings.Contains("\n"+string(b), w) {
				t.Errorf("%s does not have %q", file, w)
			}
		}
	}
}

// TestDriversOfAllowedDevices: systemd finds the numbers of a class of devices in /proc/devices when it starts the service, so the driver has to
// be there before it. On a machine that starts from another kind of disk nobody else loads it before a medium is put in.
func TestDriversOfAllowedDevices(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(dist, "systemd/disksyncmgr.service"))
	if err != nil {
		t.Fatal(err)
	}
	words := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, "="); ok {
			words[name] = append(words[name], strings.Fields(value)...)
		}
	}
	drivers := map[string]string{"block-sd": "sd_mod", "block-sr": "sr_mod", "block-mmc": "mmc_block"}
	for class, driver := range drivers {
		unit := "modprobe@" + driver + ".service"
		if !slices.Contains(words["DeviceAllow"], class) || !slices.Contains(words["Wants"], unit) || !slices.Contains(words["After"], unit) {
			t.Errorf("%s is allowed without %s before it", class, unit)
		}
	}
	for _, w := range words["DeviceAllow"] {
		if _, ok := drivers[w]; strings.HasPrefix(w, "block-") && !ok {
			t.Errorf("%s is allowed, and nobody says which driver it takes", w)
		}
	}
}
