package endpoint_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/cache"
	"disksync/config"
	"disksync/deploy"
	"disksync/endpoint"
)

// mount makes the machine have a stick and a disc, which are folders.
func (w *world) mount(stick, disc string) {
	w.Helper()
	sys := w.T.TempDir()
	for number, path := range map[string]string{"8:17": "usb1/1-1/block/sdb/sdb1", "11:0": "ata2/block/sr0"} {
		dir := filepath.Join(sys, "devices", path)
		w.write(filepath.Join(dir, "size"), nil)
		if err := errors.Join(os.MkdirAll(filepath.Join(sys, "dev/block"), 0o700), os.Symlink(dir, filepath.Join(sys, "dev/block", number))); err != nil {
			w.Fatal(err)
		}
	}
	w.write(filepath.Join(sys, "devices/usb1/1-1/block/sdb/sdb1/partition"), []byte("1\n"))
	text := "1 1 11:0 / " + disc + " ro - udf /dev/sr0 ro\n" + "2 1 8:17 / " + stick + " rw - vfat /dev/sdb1 rw\n"
	w.write(filepath.Join(w.finder.Proc, "self/mountinfo"), []byte(text))
	w.close()
	w.finder.Sys = sys
	w.open()
}

// spent returns what a receipt has, by kind of source, without what is nothing.
func spent(rc *endpoint.Receipt) map[string]bool {
	out := map[string]bool{}
	for kind, n := range rc.Bytes {
		if n > 0 {
			out[kind] = true
		}
	}
	return out
}

// TestMediaAndSettings: media are used in their order as far as the administrator allows their kind, whoever names them; and what
// happens in a transfer never changes a setting.
func TestMediaAndSettings(t *testing.T) {
	t.Parallel()
	want := disk(1, 2, 3)
	w := ready(t, want)
	stick, disc, folder := w.lab.Stick(t, "win7", 1), w.lab.Stick(t, "win7", 1), w.lab.Stick(t, "win7", 1)
	w.mount(stick, disc)
	rep, err := w.e.Media(t.Context(), []string{folder}, "")
	if err != nil || len(rep.Media) != 3 {
		t.Fatalf("%+v, %v", rep, err)
	}
	for i, kind := range []cache.Kind{cache.USB, cache.DVD, cache.USB} {
		if m := rep.Media[i]; m.Kind != kind || !m.Used || !strings.HasPrefix(m.Found, "1 layer") {
			t.Errorf("medium %d: %+v", i, m)
		}
	}
	for _, c := range []struct {
		name     string
		usb, dvd bool
		media    []string
		want     string // kind of source
	}{
		{"both", true, true, nil, deploy.USB},
		{"discs only", false, true, nil, deploy.DVD},
		{"sticks only", true, false, nil, deploy.USB},
		{"none", false, false, nil, deploy.Network},
		{"a folder counts as a stick", false, false, []string{folder}, deploy.Network},
		{"a folder on a stick as well", false, false, []string{stick, "usb:" + stick}, deploy.Network},
		{"a disc that is named", true, false, []string{disc}, deploy.USB},
		{"only a named folder", true, true, []string{folder}, deploy.USB},
		{"a folder that is not there", false, true, []string{"dvd:" + folder + "/nowhere"}, deploy.DVD},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.in(t)
			w.set(config.EnableUSBCache, c.usb)
			w.set(config.EnableDVDCache, c.dvd)
			r := endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: c.media}
			plan, err := w.e.Plan(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			rc := w.run(r)
			if diff := cmp.Diff(map[string]bool{c.want: true}, spent(rc)); diff != "" {
				t.Errorf("sources: %s; notes %q", diff, rc.Notes)
			}
			maps.DeleteFunc(rc.Bytes, func(_ string, n int64) bool { return n == 0 })
			if diff := cmp.Diff(plan.Bytes, rc.Bytes); diff != "" {
				t.Errorf("the receipt is not the plan: %s", diff)
			}
			off := slices.ContainsFunc(rc.Notes, func(s string) bool { return strings.Contains(s, "the administrator has turned") })
			if off != (!c.usb || !c.dvd) {
				t.Errorf("notes %q", rc.Notes)
			}
			w.holds("win7", want)
			if err := w.e.Remove("win7"); err != nil {
				t.Fatal(err)
			}
			if s := w.e.Settings(); s.Bool(config.EnableUSBCache) != c.usb || s.Bool(config.EnableDVDCache) != c.dvd {
				t.Error("a setting changed by itself")
			}
		})
	}
	w.set(config.EnableUSBCache, false)
	w.restart()
	if w.e.Settings().Bool(config.EnableUSBCache) {
		t.Error("what was turned off is on again")
	}
	if _, err := w.e.Media(t.Context(), []string{""}, ""); code(t, err) != "DS-USAGE" {
		t.Error(err)
	}
}

// TestBadStick: each damaged block of a stick comes from the Synchronizer, the others from the stick; a stick that gives nothing is
// given up; the setting stays as the administrator has it.
func TestBadStick(t *testing.T) {
	t.Parallel()
	want := disk(seeds(7)...)
	for _, force := range []bool{false, true} {
		w := ready(t, want)
		w.set(config.ForceLocalChecksum, force)
		stick := w.lab.Stick(t, "win7", 1)
		names, err := filepath.Glob(filepath.Join(stick, "*"))
		if err != nil {
			t.Fatal(err)
		}
		good := map[string][]byte{}
		for _, name := range names {
			if good[name], err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name   string
			damage func(b []byte) []byte
			check  func(rc *endpoint.Receipt, usb, net deploy.SourceReport) bool
		}{
			{"one byte", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, func(_ *endpoint.Receipt, usb, net deploy.SourceReport) bool {
				return net.Blocks == 1 && usb.Blocks == 6 && (usb.Bad == 1 || force)
			}},
			{"all of it", func(b []byte) []byte {
				for i := 16; i < len(b)-2000; i++ {
					b[i] ^= 0x33
				}
				return b
			}, func(_ *endpoint.Receipt, usb, net deploy.SourceReport) bool {
				return net.Blocks == 7 && usb.Blocks == 0 && (usb.GivenUp != "" || force)
			}},
			{"cut in half", func(b []byte) []byte { return b[:len(b)/2] }, func(rc *endpoint.Receipt, usb, net deploy.SourceReport) bool {
				return net.Blocks > 1 && usb.Blocks > 1 && net.Blocks+usb.Blocks == 7 && rc.Healed == 0
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := w.in(t)
				for name, b := range good {
					if len(b) > 100<<10 { // a layer
						b = c.damage(slices.Clone(b))
					}
					w.write(name, b)
				}
				rc := w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Media: []string{stick}})
				var usb, net deploy.SourceReport
				for _, s := range rc.Sources {
					switch s.Kind {
					case deploy.USB:
						usb = s
					case deploy.Network:
						net = s
					}
				}
				if !c.check(rc, usb, net) {
					t.Errorf("sources %+v, %d healed", rc.Sources, rc.Healed)
				}
				w.holds("win7", want)
				if err := w.e.Remove("win7"); err != nil {
					t.Fatal(err)
				}
				if !w.e.Settings().Bool(config.EnableUSBCache) {
					t.Error("the setting changed by itself")
				}
			})
		}
	}
}
