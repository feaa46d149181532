package endpoint_test

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/config"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/vhd"
)

// own returns the codes of the errors that the package makes itself, from its source.
func own(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && strings.HasPrefix(l.Value, `"DS-`) {
				text, err := strconv.Unquote(l.Value)
				if err != nil {
					t.Error(err)
				}
				codes[text] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(codes))
}

// writeInto writes to the disk of a VM as the VM does.
func (w *world) writeInto(vm string) {
	w.Helper()
	vms, err := w.e.VMs()
	if err != nil {
		w.Fatal(err)
	}
	i := slices.IndexFunc(vms, func(v endpoint.VMInfo) bool { return v.Name == vm })
	if i < 0 {
		w.Fatalf("no VM %s", vm)
	}
	open := func(name string, flag int) (*os.File, int64) {
		f, err := os.OpenFile(name, flag, 0)
		if err != nil {
			w.Fatal(err)
		}
		w.T.Cleanup(func() { f.Close() })
		st, err := f.Stat()
		if err != nil {
			w.Fatal(err)
		}
		return f, st.Size()
	}
	base, size := open(vms[i].Disks[0].Base, os.O_RDONLY)
	below, err := vhd.Open(base, size)
	if err != nil {
		w.Fatal(err)
	}
	leaf, size := open(vms[i].Disks[0].Leaf, os.O_RDWR)
	d, err := vhd.OpenDisk(leaf, size, []*vhd.Image{below})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := d.WriteAt([]byte(strings.Repeat("the user's ", 100))[:512], 512); err != nil {
		w.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		w.Fatal(err)
	}
}

// TestCodes makes each error that the package can make, and sees to it that it tells people what happened, what is still safe where
// something had begun, and what to do.
func TestCodes(t *testing.T) {
	t.Parallel()
	outcome := func(w *world, r endpoint.Request) error { return new(w.wait(w.start(r))).Outcome() }
	spoil := func(w *world, name string) error {
		w.close()
		w.write(filepath.Join(w.dir, name), []byte("{"))
		defer func() {
			if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
				w.Fatal(err)
			}
			w.open()
		}()
		e, err := endpoint.Open(t.Context(), endpoint.Options{Dir: w.dir, Finder: w.finder})
		if err == nil {
			err = e.Close()
		}
		return err
	}
	download := endpoint.Request{Kind: endpoint.Download, Image: "win7"}
	// The cases are one after the other the life of one endpoint.
	cases := []struct {
		code string
		do   func(w *world) error
	}{
		{"DS-NOT-REGISTERED", func(w *world) error { return outcome(w, download) }},
		{"DS-IN-USE", func(w *world) error {
			_, err := endpoint.Open(t.Context(), endpoint.Options{Dir: w.dir, Finder: w.finder})
			return err
		}},
		{"DS-SETTINGS", func(w *world) error { return spoil(w, config.File) }},
		{"DS-STATE", func(w *world) error { return spoil(w, "registration.json") }},
		{"DS-STATE", func(w *world) error { return spoil(w, "seen.json") }},
		{"DS-USAGE", func(w *world) error { _, err := w.e.Probe(t.Context(), "server"); return err }},
		{"DS-NET", func(w *world) error { _, err := w.e.Probe(t.Context(), "https://127.0.0.1:1"); return err }},
		{"DS-TLS-PIN", func(w *world) error {
			w.logIn()
			var other = w.lab.Fingerprint
			other[0]++
			_, err := w.e.Register(t.Context(), w.front.URL, other, false)
			return err
		}},
		{"DS-LOGIN-NEEDED", func(w *world) error {
			if err := w.e.Logout(t.Context()); err != nil {
				return err
			}
			defer w.logIn()
			_, err := w.e.Offers(t.Context())
			return err
		}},
		{"DS-NOT-ASSIGNED", func(w *world) error { return outcome(w, download) }},
		{"DS-NOT-ASSIGNED", func(w *world) error { return outcome(w, endpoint.Request{Kind: endpoint.Download, VM: "any"}) }},
		{"DS-CHOOSE", func(w *world) error {
			w.publish("win7", disk(1, 2), disk(1, 3))
			w.publish("linux", disk(5, 6))
			_, err := w.e.Plan(t.Context(), endpoint.Request{Kind: endpoint.Download})
			return err
		}},
		{"DS-CHOOSE", func(w *world) error { _, err := w.e.Find(""); return err }},
		{"DS-UP-ROLLBACK", func(w *world) error {
			if _, err := w.e.Plan(t.Context(), download); err != nil {
				return err
			}
			w.front.answer(offers(t, func(o *api.Offer) { o.Version, o.Newest = 1, 1 }))
			return outcome(w, download)
		}},
		{"DS-UP-SIGNATURE", func(w *world) error {
			w.front.answer(manifests(func(r *http.Request, next http.Handler) []byte { return []byte("{}") }))
			return outcome(w, download)
		}},
		{"DS-UP-WRONG", func(w *world) error {
			w.front.answer(manifests(func(r *http.Request, next http.Handler) []byte {
				return at(r, next, "/v1/images/win7/versions/1/manifest")
			}))
			return outcome(w, download)
		}},
		{"DS-UP-CHANGED", func(w *world) error {
			key := w.signingKey()
			w.front.answer(manifests(func(r *http.Request, next http.Handler) []byte {
				v, err := image.VerifyManifest(record(r, next).Body.Bytes(), w.e.Registered().SigningKey)
				if err != nil {
					t.Error(err)
					return nil
				}
				m := *v.Manifest()
				m.Note = "another"
				env, err := image.SignManifest(&m, key)
				if err != nil {
					t.Error(err)
				}
				return env
			}))
			defer w.front.honest()
			return outcome(w, download)
		}},
		{"DS-NO-VM", func(w *world) error { _, err := w.e.RollBack("win7"); return err }},
		{"DS-NO-VM", func(w *world) error { return w.e.Remove("win7") }},
		{"DS-NO-VM", func(w *world) error { return outcome(w, endpoint.Request{Kind: endpoint.Update, VM: "nobody"}) }},
		{"DS-EXISTS", func(w *world) error {
			w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "mine", Version: 1})
			return outcome(w, endpoint.Request{Kind: endpoint.Download, Image: "linux", VM: "mine"})
		}},
		{"DS-STATIC-CHANGED", func(w *world) error {
			w.writeInto("mine")
			return outcome(w, endpoint.Request{Kind: endpoint.Update, VM: "mine"})
		}},
		{"DS-OTHER-IMAGE", func(w *world) error {
			if err := w.lab.Admin.DeleteImage(t.Context(), "linux"); err != nil {
				return err
			}
			w.publish("linux", disk(5, 6))
			w.run(endpoint.Request{Kind: endpoint.Download, Image: "linux", VM: "theirs"})
			if err := w.lab.Admin.DeleteImage(t.Context(), "linux"); err != nil {
				return err
			}
			w.publish("linux", disk(5, 7))
			return outcome(w, endpoint.Request{Kind: endpoint.Update, VM: "theirs"})
		}},
		{"DS-CHOOSE", func(w *world) error { _, err := w.e.RollBack(""); return err }},
		{"DS-NO-OPERATION", func(w *world) error { _, err := w.e.Operation(image.UUID{1}); return err }},
		{"DS-NO-OPERATION", func(w *world) error { _, err := w.e.Find("nobody else"); return err }},
		{"DS-BUSY", func(w *world) error {
			o := w.start(endpoint.Request{Kind: endpoint.Verify, VM: "mine"})
			w.wait(o)
			return o.AddDisk(image.UUID{1}, "down")
		}},
		{"DS-NO-BACKUP", func(w *world) error {
			w.front.honest()
			return outcome(w, endpoint.Request{Kind: endpoint.Restore, VM: "back"})
		}},
		{"DS-BACKUP-POLICY", func(w *world) error {
			w.policy(&api.BackupPolicy{Every: 60})
			return outcome(w, endpoint.Request{Kind: endpoint.Backup, VM: "mine"})
		}},
		{"DS-NO-POINT", func(w *world) error {
			w.policy(nil)
			w.run(endpoint.Request{Kind: endpoint.Backup, VM: "mine"})
			return outcome(w, endpoint.Request{Kind: endpoint.Restore, From: "mine", Point: 9, VM: "back"})
		}},
		{"DS-OTHER-VM", func(w *world) error {
			return outcome(w, endpoint.Request{Kind: endpoint.Restore, From: "mine", VM: "theirs", InPlace: true})
		}},
		{"DS-NO-DISK", func(w *world) error { _, err := w.e.OpenDisk(w.Context(), "mine", 0, image.User); return err }},
		{"DS-SERVER-DAMAGED", func(w *world) error {
			v, err := w.elsewhere().e.OpenDisk(w.Context(), "mine", 1, image.System)
			if err != nil {
				return err
			}
			defer v.Close()
			w.damagedFrames()
			defer w.front.honest()
			return errOf(v.ReadAt(make([]byte, 100), 0))
		}},
		{"DS-NO-KEY", func(w *world) error { return errOf(w.e.ExportBackupKeys()) }},
		{"DS-KEY", func(w *world) error { return errOf(w.e.ImportBackupKeys("a key")) }},
		{"DS-KEY-EXISTS", func(w *world) error {
			w.encrypting()
			return errOf(w.e.NewBackupKey(false))
		}},
		{"DS-KEY-NEEDED", func(w *world) error { return errOf(w.e.RemoveBackupKey(w.Context(), w.e.BackupKeys()[0], true)) }},
		{"DS-BACKUP-KEY", func(w *world) error {
			keys := w.exported()
			w.writes("mine", image.System, 900, []byte("and encrypted"))
			w.run(endpoint.Request{Kind: endpoint.Backup, VM: "mine"})
			w.run(endpoint.Request{Kind: endpoint.Restore, From: "mine", VM: "back"})
			w.close()
			if err := os.Remove(filepath.Join(w.dir, "backup-key.txt")); err != nil {
				return err
			}
			w.open()
			err := outcome(w, endpoint.Request{Kind: endpoint.Backup, VM: "back"})
			_, failed := w.e.ImportBackupKeys(keys)
			return errors.Join(err, failed)
		}},
		{"DS-KEY-DAMAGED", func(w *world) error {
			text := w.exported()
			w.close()
			defer w.open()
			name := filepath.Join(w.dir, "backup-key.txt")
			defer w.write(name, []byte(text))
			w.write(name, []byte("spoiled"))
			return errOf(endpoint.Open(w.Context(), endpoint.Options{Dir: w.dir}))
		}},
		{"DS-STATE-FOLDER", func(w *world) error {
			name := filepath.Join(w.TempDir(), "file")
			w.write(name, []byte("no folder"))
			return errOf(endpoint.Open(w.Context(), endpoint.Options{Dir: name}))
		}},
		{"DS-STOPPED", func(w *world) error { return new(w.e.NewGroup().Status()).Outcome() }},
	}
	w := newWorld(t)
	made := map[string]bool{}
	for i, c := range cases {
		err := c.do(w)
		p, ok := errors.AsType[*problem.Problem](err)
		if !ok || p.Code != c.code {
			t.Fatalf("case %d: got %v, want %s", i, err, c.code)
		}
		made[p.Code] = true
		// To a question, or a call that makes no sense, nothing was begun that could be in danger.
		question := p.Exit == problem.Usage || p.Exit == problem.NotFound || p.Exit == problem.NeedsLogin
		if p.What == "" || p.Next == "" || p.Safe == "" && !question {
			t.Errorf("%s does not tell everything: what %q, safe %q, next %q", p.Code, p.What, p.Safe, p.Next)
		}
		if p.Exit == problem.OK || p.Exit == problem.Failure {
			t.Errorf("%s has exit status %d", p.Code, p.Exit)
		}
	}
	// These take a hypervisor, or a machine without one, and are made by the tests of running VMs and by the command's scripts.
	elsewhere := []string{
		"DS-DEFINE", "DS-DEFINED", "DS-HYPERVISOR", "DS-NO-HYPERVISOR", "DS-NOT-RUNNING", "DS-OTHER-HYPERVISOR", "DS-RUNNING", "DS-STILL-RUNNING", "DS-STRANDED",
	}
	here := slices.DeleteFunc(own(t), func(code string) bool { return slices.Contains(elsewhere, code) })
	if diff := cmp.Diff(here, slices.Sorted(maps.Keys(made))); diff != "" {
		t.Errorf("codes in the source, codes that were made here: %s", diff)
	}
	// Nothing of all that has touched what was there.
	w.front.honest()
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "mine"})
	w.run(endpoint.Request{Kind: endpoint.Verify, VM: "theirs"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.e.Plan(ctx, endpoint.Request{Kind: endpoint.Update, VM: "mine", Replace: true}); err == nil {
		t.Error("a plan that was cancelled")
	}
	if rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "mine", Replace: true}); rc.Version != 2 || rc.Previous != 1 {
		t.Errorf("%+v", rc)
	}
}
