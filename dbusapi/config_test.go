package dbusapi_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/endpoint"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// settings reads all settings in one call.
func (r *rig) settings() map[string]any {
	r.t.Helper()
	out := map[string]any{}
	for name, v := range must[map[string]dbus.Variant](r, "/", propFace+".GetAll", confFace) {
		out[name] = v.Value()
	}
	return out
}

func (r *rig) wantSettings(changed map[string]any) {
	r.t.Helper()
	want := maps.Clone(defaults)
	maps.Copy(want, changed)
	if diff := cmp.Diff(want, r.settings()); diff != "" {
		r.t.Errorf("settings: -want +got\n%s", diff)
	}
}

// TestSettingsOfOthers reads and writes settings with clients that know nothing of this project.
func TestSettingsOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.wantSettings(nil)
	out, exit := r.xec("-i", confFace, "getall")
	want := confFace + "\n{\n"
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		want += fmt.Sprintf("  %-35s = %v\n", `"`+name+`"`, defaults[name])
	}
	if diff := cmp.Diff(want+"}\n", out); diff != "" || exit != 0 {
		t.Errorf("xec getall: exit %d, -want +got\n%s", exit, diff)
	}
	steps := []struct {
		tool       string
		set        func() (string, bool)
		name, want string // as gdbus prints it
	}{
		{"xec --set", func() (string, bool) {
			out, exit := r.xec("--set", "enable-usb-cache", "false")
			return out, exit == 0
		}, "enable-usb-cache", "false"},
		{"xec set", func() (string, bool) {
			out, exit := r.xec("set", "download-cksize", "16")
			return out, exit == 0
		}, "download-cksize", "16"},
		{"busctl bool", func() (string, bool) {
			return r.busctl("set-property", service, "/", confFace, "force-local-checksum", "b", "true")
		}, "force-local-checksum", "true"},
		{"busctl int", func() (string, bool) {
			return r.busctl("set-property", service, "/", confFace, "vhdsync-log-level", "i", "7")
		}, "vhdsync-log-level", "7"},
		{"gdbus bool", func() (string, bool) {
			return r.gdbus("/", propFace+".Set", confFace, "enable-dvd-cache", "<false>")
		}, "enable-dvd-cache", "false"},
		{"gdbus int", func() (string, bool) {
			return r.gdbus("/", propFace+".Set", confFace, "xfer-lowspeed-time", "<int32 9>")
		}, "xfer-lowspeed-time", "9"},
	}
	for _, s := range steps {
		if out, ok := s.set(); !ok || strings.Trim(out, "()\n") != "" {
			t.Errorf("%s: %s", s.tool, out)
		}
		// Each of the others sees it.
		if out, ok := r.gdbus("/", propFace+".Get", confFace, s.name); !ok || out != "(<"+s.want+">,)\n" {
			t.Errorf("after %s gdbus reads %s", s.tool, out)
		}
		if out, ok := r.busctl("get-property", service, "/", confFace, s.name); !ok || !strings.HasSuffix(out, " "+s.want+"\n") {
			t.Errorf("after %s busctl reads %s", s.tool, out)
		}
		if out, exit := r.xec("get", s.name); exit != 0 || out != s.want+"\n" {
			t.Errorf("after %s xec reads %s", s.tool, out)
		}
	}
	changed := map[string]any{
		"enable-usb-cache": false, "download-cksize": int32(16), "force-local-checksum": true, "vhdsync-log-level": int32(7),
		"enable-dvd-cache": false, "xfer-lowspeed-time": int32(9),
	}
	r.wantSettings(changed)
	// The original turned both caches on again whenever a group was made.
	r.begin(endpoint.Request{Kind: endpoint.Download, Image: "none"})
	must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	r.wantSettings(changed)
	r.restart()
	r.wantSettings(changed)
}

// TestSettingsRefused: a value of another type or out of its range changes nothing, and the answer says why.
func TestSettingsRefused(t *testing.T) {
	const invalid = "org.freedesktop.DBus.Error.InvalidArgs"
	r := newRig(t)
	long := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name  string
		v     any
		words string
	}{
		{"enable-usb-cache", int32(1), "its type is b, not i"},
		{"enable-usb-cache", "false", "its type is b, not s"},
		{"enable-usb-cache", long, "its type is b, not s"},
		{"enable-usb-cache", dbus.MakeVariant(false), "its type is b, not v"},
		{"enable-usb-cache", []bool{false}, "its type is b, not ab"},
		{"download-cksize", true, "its type is i, not b"},
		{"download-cksize", int64(5), "its type is i, not x"},
		{"download-cksize", uint32(5), "its type is i, not u"},
		{"download-cksize", 5.0, "its type is i, not d"},
		{"download-cksize", int32(0), "0 is not between 1 and 4096"},
		{"download-cksize", int32(-80), "-80 is not between"},
		{"upload-cksize", int32(4097), "4097 is not between"},
		{"vhdsync-log-level", int32(-1), "-1 is not between 0 and 7"},
		{"vhdsync-log-level", int32(8), "8 is not between 0 and 7"},
		{"xfer-connect-timeout", int32(0), "0 is not between"},
		{"xfer-lowspeed-limit", int32(-2147483648), "is not between"},
		{"xfer-lowspeed-time", int32(2147483647), "is not between"},
	} {
		err := r.call("/", propFace+".Set", confFace, c.name, dbus.MakeVariant(c.v)).Err
		wantError(t, err, invalid, c.name, c.words)
		if e, ok := err.(dbus.Error); ok && len(fmt.Sprint(e.Body...)) > 300 {
			t.Errorf("%s: the answer has %d bytes", c.name, len(fmt.Sprint(e.Body...)))
		}
	}
	r.wantSettings(nil)
	if out, exit := r.xec("set", "download-cksize", "0"); exit != 1 || !strings.Contains(out, "0 is not between 1 and 4096") {
		t.Errorf("xec: %d %s", exit, out)
	}
	if out, ok := r.busctl("set-property", service, "/", confFace, "enable-usb-cache", "s", "no"); ok || !strings.Contains(out, "its type is b, not s") {
		t.Errorf("busctl: %s", out)
	}
	// The bounds themselves are good.
	for name, n := range map[string]int32{"vhdsync-log-level": 0, "download-cksize": 1, "upload-cksize": 4096, "xfer-lowspeed-limit": 2147483647} {
		r.do("/", propFace+".Set", confFace, name, dbus.MakeVariant(n))
		if got := property[int32](r, "/", confFace, name); got != n {
			t.Errorf("%s is %d, want %d", name, got, n)
		}
	}
}

// monitor is a program that prints the signals it sees.
func (r *rig) monitor(name string, args ...string) *testkit.Buffer {
	r.t.Helper()
	out := &testkit.Buffer{}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testkit.Tool(r.t, name), args...)
	cmd.Env = append(os.Environ(), r.bus.Env()...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it is killed
	})
	// It watches from some time on; a signal that does not matter shows from when.
	testkit.Until(r.t, name+" watches", func() bool {
		r.do("/", propFace+".Set", confFace, "upload-cksize", dbus.MakeVariant(int32(40)))
		return strings.Contains(out.String(), "upload-cksize")
	})
	return out
}

func TestPropertiesChanged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gdbus := r.monitor("gdbus", "monitor", "--session", "-d", service)
	busctl := r.monitor("busctl", "--user", "--json=short", "--match=type='signal',sender='"+service+"'", "monitor")
	r.do("/", propFace+".Set", confFace, "enable-usb-cache", dbus.MakeVariant(false))
	r.do("/", propFace+".Set", confFace, "download-cksize", dbus.MakeVariant(int32(7)))
	// Nothing was changed here, so nothing is told.
	_ = r.call("/", propFace+".Set", confFace, "download-cksize", dbus.MakeVariant(int32(0)))
	_ = r.call("/", propFace+".Set", confFace, "enable-dvd-cache", dbus.MakeVariant("x"))
	r.do("/", propFace+".Set", confFace, "vhdsync-log-level", dbus.MakeVariant(int32(1))) // the last one
	for _, want := range []string{
		"/: org.freedesktop.DBus.Properties.PropertiesChanged ('com.citrix.xenclient.disksyncmgr.config', {'enable-usb-cache': <false>}, @as [])",
		"/: org.freedesktop.DBus.Properties.PropertiesChanged ('com.citrix.xenclient.disksyncmgr.config', {'download-cksize': <7>}, @as [])",
		"{'vhdsync-log-level': <1>}",
	} {
		testkit.Until(r.t, "gdbus prints "+want, func() bool { return strings.Contains(gdbus.String(), want) })
	}
	testkit.Until(r.t, "busctl prints the last", func() bool { return strings.Contains(busctl.String(), "vhdsync-log-level") })
	if got := busctl.String(); !strings.Contains(got, `{"enable-usb-cache":{"type":"b","data":false}}`) {
		t.Errorf("busctl: %s", got)
	}
	for _, got := range []string{gdbus.String(), busctl.String()} {
		if strings.Contains(got, "enable-dvd-cache") || strings.Count(got, "'download-cksize'")+strings.Count(got, `"download-cksize"`) != 1 {
			t.Errorf("a refused value was told: %s", got)
		}
	}
}

// TestBadMediumLeavesSettings: a stick whose every file is damaged does not turn sticks off, as it did in the original, and one
// that is turned off stays so.
func TestBadMediumLeavesSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2, 3, 4))
	l.Assign(t, "win7", "alice", 0)
	stick := l.Stick(t, "win7", 1)
	damage(t, stick)
	r.logIn(l, l.URL)
	r.do("/", propFace+".Set", confFace, "enable-dvd-cache", dbus.MakeVariant(false))
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{stick}})
	r.await(group, "finished", "failed")
	if got := property[string](r, group, groupFace, "state"); got != "finished" {
		t.Errorf("with a bad stick the download is %s", got)
	}
	r.wantSettings(map[string]any{"enable-dvd-cache": false})
	r.restart()
	r.wantSettings(map[string]any{"enable-dvd-cache": false})
	if _, exit := r.xec("--set", "enable-usb-cache", "false"); exit != 0 {
		t.Error("xec failed")
	}
	again := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "second", Media: []string{l.Stick(t, "win7", 1)}})
	r.await(again, "finished")
	r.wantSettings(map[string]any{"enable-dvd-cache": false, "enable-usb-cache": false})
}

// damage changes a byte of each frame of the layers in a folder: all but the ends of the files, by which they are recognised.
func damage(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".dsl" {
			continue
		}
		name := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := 4096; i < len(b)-4096; i += 64 << 10 {
			b[i] ^= 0x55
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		t.Fatal("nothing to damage")
	}
}
