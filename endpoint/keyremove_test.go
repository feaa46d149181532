package endpoint_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
)

// turn turns encryption on or off.
func (w *world) turn(on bool) {
	w.Helper()
	if err := w.e.EncryptBackups(on); err != nil {
		w.Fatal(err)
	}
}

// sealed returns what a point of the only line is encrypted for, disk by disk.
func (w *world) sealed(point image.Version) (out [][]string) {
	w.Helper()
	lines, err := w.e.Backups(w.Context())
	if err != nil || len(lines) != 1 {
		w.Fatalf("%v, %v", lines, err)
	}
	for _, p := range lines[0].Points {
		for _, d := range p.Disks {
			if p.Point == point {
				out = append(out, d.Sealed)
			}
		}
	}
	return out
}

// TestEncryptionEnds: after encryption was turned off the next point is in the clear and whole, though nothing was written, and so are those
// after it; the key opens those before; and it can be turned on again. Each point is what the disk was.
func TestEncryptionEnds(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	me := w.encrypting()
	now := disk(1, 2, 3)
	past := map[image.Version][]byte{}
	r := rand.New(rand.NewPCG(4, 2))
	backUp := func(write bool, recipients ...string) *endpoint.Receipt {
		t.Helper()
		if write {
			w.scribbles(r, now)
		}
		rc := w.backUp("win7")
		if rc.Nothing != "" || !slices.Equal(rc.Point.Recipients, recipients) {
			t.Errorf("%+v", rc.Point)
		}
		if got := w.sealed(rc.Point.Point); len(got) != 1 || !slices.Equal(got[0], recipients) {
			t.Errorf("point %d is encrypted for %v, want %v", rc.Point.Point, got, recipients)
		}
		past[rc.Point.Point] = slices.Clone(now)
		return rc
	}
	backUp(true, me)
	backUp(true, me)
	w.turn(false)
	w.restart() // it is remembered
	if w.e.EncryptsBackups() || len(w.e.BackupKeys()) != 1 {
		t.Errorf("%t, %v", w.e.EncryptsBackups(), w.e.BackupKeys())
	}
	first := backUp(false)
	if d := first.Point.Disks[0]; d.Read == 0 || d.Layer.IsZero() {
		t.Errorf("%+v", d)
	}
	if rc := w.backUp("win7"); rc.Nothing == "" {
		t.Errorf("a backup of nothing: %+v", rc.Point)
	}
	if d := backUp(true).Point.Disks[0]; d.From != first.Point.Disks[0].State || d.Read > 2 {
		t.Errorf("the second one in the clear: %+v", d)
	}
	w.turn(true)
	last := w.e.BackupKeys()[0]
	if d := backUp(true, me).Point.Disks[0]; d.Read > 2 || last != me {
		t.Errorf("encrypted again: %+v, for %s", d, last)
	}
	w.turn(false)
	backUp(true)
	other := w.elsewhere()
	restore := func(n image.Version, may bool) {
		t.Helper()
		q := endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: n, VM: fmt.Sprintf("back%d", n)}
		if !may {
			if code, _ := other.fail(q); code != "DS-BACKUP-KEY" {
				t.Errorf("point %d without a key: %s", n, code)
			}
			return
		}
		other.run(q)
		other.holds(q.VM, past[n])
	}
	for _, n := range slices.Sorted(maps.Keys(past)) { // once point 3 is here, point 2 can be had without its key: it is the same
		restore(n, n == 3 || n == 4 || n == 6)
	}
	// What is between goes; the rest stays exact.
	for _, gone := range []image.Version{2, 3, 5} {
		if err := w.lab.Admin.DeletePoint(t.Context(), first.Point.Line, gone); err != nil {
			t.Fatal(err)
		}
		delete(past, gone)
	}
	for _, o := range other.e.Operations() { // those that failed
		if err := o.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, vm := range []string{"back3", "back4", "back6"} {
		if err := other.e.Remove(vm); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	for n := range past {
		restore(n, true)
	}
	w.holds("win7", now)
}

// TestEncryptionEndsInTheMiddle: what was encrypted and not sent yet when encryption was turned off is not sent any more, and nothing of it
// stays.
func TestEncryptionEndsInTheMiddle(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	w.writes("win7", image.System, 700, []byte("mine"))
	sends := make(chan struct{}, 100)
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPut || req.Method == http.MethodPatch {
			sends <- struct{}{}
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(rw, req)
	})
	o := w.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	<-sends
	o.Stop()
	if s := w.wait(o); s.State != endpoint.Stopped {
		t.Fatalf("%s, %v", s.State, s.Outcome())
	}
	spooled := func() (n int) {
		entries, err := os.ReadDir(filepath.Join(w.dir, "spool"))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if spooled() == 0 {
		t.Fatal("nothing was encrypted: this is no test")
	}
	w.front.honest()
	w.turn(false)
	rc := w.backUp("win7")
	if len(rc.Point.Recipients) > 0 || spooled() != 0 || len(w.objects()) != 0 {
		t.Errorf("%+v, %d files in the spool, %d encrypted objects", rc.Point, spooled(), len(w.objects()))
	}
	want := disk(1, 2)
	copy(want[700:], "mine")
	other := w.elsewhere()
	other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	other.holds("back", want)
}

// TestPolicyAgainstEnding: where a policy that is known wants encryption it is not turned off; where it wants that later, it has it, for the
// key that there is or a new one, and what was said of other VMs holds.
func TestPolicyAgainstEnding(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	me := w.encrypting()
	demand := func(yes bool) {
		t.Helper()
		w.policy(&api.BackupPolicy{Manual: true, Encrypt: yes})
		w.e.AskPolicies(t.Context())
	}
	demand(true)
	if p := problem.Of(w.e.EncryptBackups(false)); p.Code != "DS-BACKUP-POLICY" || !strings.Contains(p.What, "VM win7") || !w.e.EncryptsBackups() {
		t.Errorf("%+v", p)
	}
	demand(false)
	w.turn(false)
	w.policy(&api.BackupPolicy{Manual: true, Encrypt: true}) // and nobody here knows yet
	w.writes("win7", image.System, 700, []byte("mine"))
	if rc := w.backUp("win7"); !slices.Equal(rc.Point.Recipients, []string{me}) || !strings.Contains(strings.Join(rc.Notes, " "), "turned off here, but the policy") {
		t.Errorf("%+v, %q", rc.Point, rc.Notes)
	}
	if p := problem.Of(errOf(w.e.RemoveBackupKey(t.Context(), me, true))); p.Code != "DS-KEY-NEEDED" || !strings.Contains(p.What, "VM win7") {
		t.Errorf("%+v", p)
	}
	demand(false)
	if left, err := w.e.RemoveBackupKey(t.Context(), me, true); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	w.restart() // without a key there is still what was said
	w.policy(&api.BackupPolicy{Manual: true, Encrypt: true})
	w.writes("win7", image.System, 700, []byte("more"))
	rc := w.backUp("win7")
	if len(rc.Point.Recipients) != 1 || rc.Point.Recipients[0] == me || w.e.EncryptsBackups() {
		t.Errorf("%+v, %t", rc.Point, w.e.EncryptsBackups())
	}
	demand(false)
	if rc := w.backUp("win7"); len(rc.Point.Recipients) != 0 || rc.Nothing != "" {
		t.Errorf("%+v", rc.Point)
	}
}

// TestRemoveKey: a key goes when somebody wants that, but not what backups are encrypted for, nor, but by force, what a point needs or may.
func TestRemoveKey(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	first := w.encrypting()
	w.writes("win7", image.System, 700, []byte("first"))
	w.backUp("win7")
	old := w.exported()
	refused := func(recipient string, force bool, code string, says ...string) {
		t.Helper()
		before := w.exported()
		p := problem.Of(errOf(w.e.RemoveBackupKey(t.Context(), recipient, force)))
		if p.Code != code {
			t.Fatalf("%+v", p)
		}
		for _, s := range says {
			if !strings.Contains(p.What+p.Next, s) {
				t.Errorf("%q is not in %+v", s, p)
			}
		}
		if keysOf(w.exported()) != keysOf(before) {
			t.Error("the keys have changed")
		}
	}
	refused("age1nobody", false, "DS-NO-KEY")
	refused(first, true, "DS-KEY-NEEDED", "are encrypted for "+first, "key disable")
	second, err := w.e.NewBackupKey(true)
	if err != nil {
		t.Fatal(err)
	}
	refused(first, false, "DS-KEY-NEEDED", "point 1 of VM win7", "--force")
	// What cannot be found out.
	w.front.answer(func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
	refused(first, false, "DS-NET", "cannot be found out", "--force")
	w.front.honest()
	if err := w.e.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(first, false, "DS-LOGIN-NEEDED", "--force")
	w.lab.User(t, "bob")
	if err := w.e.Login(t.Context(), "bob", lab.Password); err != nil {
		t.Fatal(err)
	}
	refused(first, false, "DS-KEY-NEEDED", "VM win7", "another user's")
	w.logIn()
	// While a backup runs, nobody knows what it will need.
	held, on := make(chan struct{}), make(chan struct{})
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.Contains(req.URL.Path, "/uploads/") && req.Method != http.MethodGet {
			held <- struct{}{}
			<-on
			w.front.honest()
		}
		next.ServeHTTP(rw, req)
	})
	w.writes("win7", image.System, 700, []byte("other"))
	o := w.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
	<-held
	if err := w.lab.Admin.DeletePoint(t.Context(), w.line(), 1); err != nil {
		t.Fatal(err)
	}
	refused(first, false, "DS-KEY-NEEDED", "a backup is under way")
	close(on)
	if s := w.wait(o); s.Outcome() != nil || s.Receipt.Point.Recipients[0] != second {
		t.Fatalf("%v, %+v", s.Outcome(), s.Receipt)
	}
	// No point needs it any more.
	if left, err := w.e.RemoveBackupKey(t.Context(), first, false); err != nil || !slices.Equal(left, []string{second}) {
		t.Fatalf("%v, %v", left, err)
	}
	w.restart()
	if got := w.e.BackupKeys(); !slices.Equal(got, []string{second}) || !w.e.EncryptsBackups() {
		t.Errorf("%v", got)
	}
	// Of two keys that open the same point one may go; escrow is not here.
	w.policy(&api.BackupPolicy{Manual: true, Recipients: []string{first}})
	w.backUp("win7")
	if err := w.lab.Admin.DeletePoint(t.Context(), w.line(), 2); err != nil {
		t.Fatal(err)
	}
	w.turn(false)
	refused(second, false, "DS-KEY-NEEDED", "point 3 of VM win7")
	if _, err := w.e.ImportBackupKeys(old); err != nil || w.e.EncryptsBackups() {
		t.Errorf("%v, %t", err, w.e.EncryptsBackups())
	}
	if left, err := w.e.RemoveBackupKey(t.Context(), second, false); err != nil || !slices.Equal(left, []string{first}) {
		t.Errorf("%v, %v", left, err)
	}
	w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: 3, VM: "back"})
	// By force, all of them.
	if left, err := w.e.RemoveBackupKey(t.Context(), first, true); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	w.restart()
	if p := problem.Of(w.e.EncryptBackups(true)); p.Code != "DS-NO-KEY" {
		t.Errorf("%+v", p)
	}
	if rc := w.backUp("win7"); len(rc.Point.Recipients) != 0 || rc.Nothing != "" {
		t.Errorf("%+v", rc.Point)
	}
	if _, err := w.e.NewBackupKey(false); err != nil || !w.e.EncryptsBackups() {
		t.Errorf("%v, %t", err, w.e.EncryptsBackups())
	}
}

// keysOf returns the lines of an exported file of keys that do not tell the time.
func keysOf(text string) string {
	_, keys, _ := strings.Cut(text, "\n")
	return keys
}

// line returns the id of the only line.
func (w *world) line() image.UUID {
	w.Helper()
	lines, err := w.e.Backups(w.Context())
	if err != nil || len(lines) != 1 {
		w.Fatalf("%v, %v", lines, err)
	}
	return lines[0].ID
}

// TestLostKeyAndNoOther: who has lost the key and wants none can go on in the clear, but has to say so.
func TestLostKeyAndNoOther(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	w.writes("win7", image.System, 700, []byte("mine"))
	w.backUp("win7")
	w.close()
	if err := os.Remove(filepath.Join(w.dir, "backup-key.txt")); err != nil {
		t.Fatal(err)
	}
	w.open()
	if c, s := w.fail(endpoint.Request{Kind: endpoint.Backup, VM: "win7"}); c != "DS-BACKUP-KEY" || !strings.Contains(problem.Of(s.Outcome()).Next, "key disable") {
		t.Errorf("%s, %v", c, s.Outcome())
	}
	w.turn(false)
	rc := w.backUp("win7")
	if len(rc.Point.Recipients) != 0 || rc.Point.Point != 2 {
		t.Errorf("%+v", rc.Point)
	}
	want := disk(1, 2)
	copy(want[700:], "mine")
	w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	w.holds("back", want)
}

// TestLentKeyAlone: what was restored with a key that was lent is not sent in the clear, unless somebody says so; then the point starts from
// what was published.
func TestLentKeyAlone(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	copy(now[700:], "mine")
	w.writes("win7", image.System, 700, []byte("mine"))
	w.backUp("win7")
	other := w.elsewhere()
	lent, err := other.e.LendBackupKeys("somebody", w.exported())
	if err != nil {
		t.Fatal(err)
	}
	other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	other.e.ReturnBackupKeys("somebody", lent)
	copy(now[block:], "more")
	for _, write := range []bool{false, true} {
		if write {
			other.writes("back", image.System, block, []byte("more"))
		}
		c, s := other.fail(endpoint.Request{Kind: endpoint.Backup, VM: "back"})
		if c != "DS-BACKUP-KEY" || !strings.Contains(s.Outcome().Error(), "restored from") {
			t.Errorf("%s, %v", c, s.Outcome())
		}
		// What was frozen for it would be what the next one goes on with.
		if o, err := other.e.Operation(s.ID); err != nil || o.Delete(t.Context()) != nil {
			t.Fatal(err)
		}
	}
	other.turn(false)
	rc := other.backUp("back")
	if d := rc.Point.Disks[0]; len(rc.Point.Recipients) > 0 || d.From.IsZero() || d.Read != 2 {
		t.Errorf("%+v", rc.Point)
	}
	third := w.elsewhere()
	third.run(endpoint.Request{Kind: endpoint.Restore, From: rc.Point.Line.String(), VM: "again"})
	third.holds("again", now)
}

// TestKeyFileFaults: whatever fails, or loses power, while the file of keys is changed, afterwards it says what it said before or what it
// was to say, and no key is lost that was not to be removed.
func TestKeyFileFaults(t *testing.T) {
	fsys := faultfs.New()
	e, err := endpoint.OverKeys(fsys)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for range 2 {
		k, err := e.NewBackupKey(true)
		if err != nil {
			t.Fatal(err)
		}
		all = append([]string{k}, all...)
	}
	changes := map[string]struct {
		do   func(e *endpoint.Engine) error
		want endpoint.KeyFile
	}{
		"disable":    {func(e *endpoint.Engine) error { return e.EncryptBackups(false) }, endpoint.KeyFile{Recipients: all, Off: true}},
		"remove one": {func(e *endpoint.Engine) error { return errOf(e.RemoveBackupKey(t.Context(), all[1], true)) }, endpoint.KeyFile{Recipients: all[:1]}},
	}
	r := rand.New(rand.NewPCG(3, 1))
	for name, c := range changes {
		fired := 0
		for _, fault := range []faultfs.Fault{faultfs.FailBefore, faultfs.FailAfter, faultfs.Short, faultfs.PowerLoss} {
			for at := 1; ; at++ {
				run := fsys.Clone()
				e, err := endpoint.OverKeys(run)
				if err != nil {
					t.Fatal(err)
				}
				run.Arm(at, fault)
				err = c.do(e)
				if !run.Fired() {
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					break
				}
				fired++
				if err == nil {
					t.Errorf("%s: step %d fails with %v, and nobody is told", name, at, fault)
				}
				if fault != faultfs.PowerLoss && (len(e.BackupKeys()) != 2 || !e.EncryptsBackups()) {
					t.Errorf("%s: what failed counts all the same: %v", name, e.BackupKeys())
				}
				for _, keep := range []float64{0, 0.5, 1} {
					after := run.Clone().Restart(keep, r)
					got, err := endpoint.ReadKeyFile(after)
					if err != nil || !cmp.Equal(got, c.want) && !cmp.Equal(got, endpoint.KeyFile{Recipients: all}) {
						t.Errorf("%s, %v at step %d, %v kept: %+v, %v", name, fault, at, keep, got, err)
					}
				}
				if len(run.UnsafeRenames()) > 0 {
					t.Errorf("%s: %v", name, run.UnsafeRenames())
				}
			}
		}
		if fired < 9 {
			t.Errorf("%s: %d faults: this is no test", name, fired)
		}
		done := fsys.Clone()
		e, err := endpoint.OverKeys(done)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.do(e); err != nil {
			t.Fatal(err)
		}
		if got, err := endpoint.ReadKeyFile(done.Restart(0, r)); err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestKeyFileIsAges: the programs of age take the file of keys as it is, also when it says that encryption is off.
func TestKeyFileIsAges(t *testing.T) {
	age, keygen := testkit.Tool(t, "age"), testkit.Tool(t, "age-keygen")
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	w.writes("win7", image.System, 700, []byte("first"))
	w.backUp("win7")
	if _, err := w.e.NewBackupKey(true); err != nil {
		t.Fatal(err)
	}
	w.turn(false)
	file := filepath.Join(w.dir, "backup-key.txt")
	out, err := exec.Command(keygen, "-y", file).Output()
	if want := w.e.BackupKeys(); err != nil || !slices.Equal(strings.Fields(string(out)), want) {
		t.Errorf("age-keygen has %s, want %v: %v", out, want, err)
	}
	b, err := exec.Command(age, "-d", "-i", file, w.objects()[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	if x, err := layer.ReadIndex(bytes.NewReader(b), int64(len(b))); err != nil || x.Len() == 0 {
		t.Errorf("%v, %v", x, err)
	}
}

// TestKeyFileForms: a file that lost its keys is damaged, unless it says that there are none; the words are no key's business.
func TestKeyFileForms(t *testing.T) {
	const key = "AGE-SECRET-KEY-1KF7FZ28HKFC06JCWSPLDXLPM8WU3C2HSAR8MXYTSP0ZFWYR8U28QWJHK0G"
	for _, c := range []struct {
		text string
		off  bool
		keys int // -1: damaged
	}{
		{"", false, -1}, {"# a comment\n", false, -1}, {"# encryption: off\n", true, 0}, {"# encryption: off", true, 0},
		{"# encryption: off\r\n\r\n", true, 0}, {"# encryption: on\n", false, -1}, {key, false, 1}, {"# encryption: off\n" + key + "\n", true, 1},
		{key + "\n# encryption: off\n", true, 1}, {"# encryption: off\nspoiled\n", true, -1}, {"# encryption: off " + key, false, -1},
		{"# encryption: off\n" + strings.Repeat(key+"\n", 2000), true, -1},
	} {
		fsys := faultfs.New()
		if err := durable.WriteFile(fsys, "backup-key.txt", []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := endpoint.ReadKeyFile(fsys)
		if c.keys < 0 {
			if err == nil || strings.Contains(err.Error(), "spoiled") {
				t.Errorf("%.40q: %+v, %v", c.text, got, err)
			}
			continue
		}
		if err != nil || got.Off != c.off || len(got.Recipients) != c.keys {
			t.Errorf("%.40q: %+v, %v", c.text, got, err)
		}
	}
}
