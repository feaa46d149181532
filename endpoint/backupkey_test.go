package endpoint_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/agefile"
	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
)

// encrypting makes the key of the endpoint's backups, and returns its recipient.
func (w *world) encrypting() string {
	w.Helper()
	r, err := w.e.NewBackupKey(false)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// exported returns the endpoint's keys.
func (w *world) exported() string {
	w.Helper()
	text, err := w.e.ExportBackupKeys()
	if err != nil {
		w.Fatal(err)
	}
	return text
}

// TestEncryptedBackups: each point is what the disk was, for whoever has the key, and nothing of it can be read at the Synchronizer.
func TestEncryptedBackups(t *testing.T) {
	w := ready(t, disk(1, 2, 3, 4))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	me := w.encrypting()
	now := disk(1, 2, 3, 4)
	var past [][]byte
	r := rand.New(rand.NewPCG(11, 2))
	for i := range points() {
		for range 1 + r.IntN(3) {
			w.scribbles(r, now)
		}
		if i%5 == 3 {
			w.restart()
		}
		rc := w.backUp("win7")
		if int(rc.Point.Point) != i+1 || rc.Nothing != "" || rc.Point.Disks[0].Read > 6 || !slices.Equal(rc.Point.Recipients, []string{me}) {
			t.Fatalf("%+v", rc.Point)
		}
		past = append(past, slices.Clone(now))
		w.holds("win7", now)
	}
	if rc := w.backUp("win7"); rc.Nothing == "" || int(rc.Point.Point) != len(past) {
		t.Errorf("a backup of nothing: %+v", rc)
	}
	other := w.elsewhere()
	c, s := other.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "x"})
	if c != "DS-BACKUP-KEY" || !strings.Contains(s.Outcome().Error(), me) {
		t.Errorf("without a key: %s, %v", c, s.Outcome())
	}
	if _, err := other.e.NewBackupKey(false); err != nil {
		t.Fatal(err)
	}
	if c, _ := other.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "x"}); c != "DS-BACKUP-KEY" {
		t.Errorf("with another key: %s", c)
	}
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	for n, i := range r.Perm(len(past))[:4] {
		for k, m := range []*world{w, other} {
			name := fmt.Sprintf("back%d-%d", n, k)
			rc := m.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: image.Version(i + 1), VM: name})
			if int(rc.Point.Point) != i+1 || rc.Version != 1 || rc.Image != "win7" {
				t.Errorf("%+v", rc)
			}
			m.holds(name, past[i])
			m.run(endpoint.Request{Kind: endpoint.Verify, VM: name})
		}
	}
	w.hidden(past)
}

// hidden looks through all that the Synchronizer keeps for what disks have beyond the image, and for the digests of their blocks.
func (w *world) hidden(disks [][]byte) {
	w.Helper()
	published := map[string]bool{}
	for _, b := range blocksOf(disk(1, 2, 3, 4)) {
		published[string(b)] = true
	}
	var secrets [][]byte
	for _, d := range disks {
		for _, b := range blocksOf(d) {
			if published[string(b)] {
				continue
			}
			digest := image.SumBlock(b)
			secrets = append(secrets, digest[:])
			// What was scribbled differs from the image; a run of it is enough to know it by.
			orig := disk(1, 2, 3, 4)
			for i := 0; i+32 <= len(b); i += 32 {
				if run := b[i : i+32]; !bytes.Contains(orig, run) && bytes.Count(run, []byte{0}) < 8 {
					secrets = append(secrets, bytes.Clone(run))
					break
				}
			}
		}
	}
	if len(secrets) < 8 {
		w.Fatalf("%d secrets", len(secrets))
	}
	files := 0
	err := filepath.WalkDir(w.lab.Dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		files++
		for _, s := range secrets {
			if bytes.Contains(b, s) || bytes.Contains(b, []byte(fmt.Sprintf("%x", s))) {
				w.Errorf("%s has %x", name, s)
			}
		}
		if strings.HasSuffix(name, ".dsl") {
			if x, err := layer.ReadIndex(bytes.NewReader(b), int64(len(b))); err == nil && !x.From().IsZero() {
				w.Errorf("%s is a layer that can be read", name)
			}
		}
		return err
	})
	if err != nil || files < 5 {
		w.Fatalf("%d files, %v", files, err)
	}
}

func blocksOf(d []byte) [][]byte {
	var out [][]byte
	for off := 0; off < len(d); off += block {
		b := make([]byte, block)
		copy(b, d[off:])
		out = append(out, b)
	}
	return out
}

// TestEscrow: the policy names who can read backups besides the user, and has them encrypted where the user has no key yet.
func TestEscrow(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3)
	write := func(text string) {
		copy(now[700:], text)
		w.writes("win7", image.System, 700, []byte(text))
	}
	write("in the clear")
	w.backUp("win7")
	plain := slices.Clone(now)
	it := w.elsewhere()
	escrow := it.encrypting()
	key := it.exported()
	w.policy(&api.BackupPolicy{Manual: true, Encrypt: true, Recipients: []string{escrow}})

	write("from now on encrypted")
	rc := w.backUp("win7")
	if len(rc.Point.Recipients) != 2 || rc.Point.Recipients[1] != escrow || rc.Point.Disks[0].Read != 1 || len(rc.Notes) == 0 {
		t.Errorf("%+v %v", rc.Point, rc.Notes)
	}
	if got := w.e.BackupKeys(); len(got) != 1 || got[0] != rc.Point.Recipients[0] {
		t.Errorf("%v", got)
	}
	if st, err := os.Stat(filepath.Join(w.dir, "backup-key.txt")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	third := w.elsewhere() // has nothing but what escrow lends
	c, s := third.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "x"})
	if c != "DS-BACKUP-KEY" || !strings.Contains(s.Outcome().Error(), escrow) {
		t.Errorf("%s, %v", c, s.Outcome())
	}
	lent, err := third.e.LendBackupKeys("IT", key)
	if err != nil {
		t.Fatal(err)
	}
	third.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	third.holds("back", now)
	third.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "clear", Point: 1})
	third.holds("clear", plain)
	secret := key[strings.Index(key, "AGE-SECRET-KEY-1"):][:50]
	err = filepath.WalkDir(third.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%s has a key that was lent", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	third.e.ReturnBackupKeys("IT", lent)
	if b, err := os.ReadDir(third.dir); err != nil || slices.ContainsFunc(b, func(e fs.DirEntry) bool { return e.Name() == "backup-key.txt" }) {
		t.Errorf("what was lent was kept: %v, %v", b, err)
	}
	// The key was another laptop's. This one has its own, which has to open all of its own line: so it starts from the image.
	rc = third.backUp("back")
	if len(rc.Point.Recipients) != 2 || rc.Point.Disks[0].Layer.IsZero() {
		t.Errorf("%+v", rc.Point)
	}
	third.run(endpoint.Request{Kind: endpoint.Restore, From: rc.Point.Line.String(), VM: "again"})
	third.holds("again", now)
	fourth := w.elsewhere()
	if _, err := fourth.e.ImportBackupKeys(third.exported()); err != nil {
		t.Fatal(err)
	}
	fourth.run(endpoint.Request{Kind: endpoint.Restore, From: rc.Point.Line.String(), VM: "again"})
	fourth.holds("again", now)

	// Another escrow: what was written before has to be readable by it as well, though nothing was written since.
	second := w.elsewhere()
	escrow2 := second.encrypting()
	w.policy(&api.BackupPolicy{Manual: true, Encrypt: true, Recipients: []string{escrow2}})
	rc = w.backUp("win7")
	if rc.Nothing != "" || rc.Point.Recipients[1] != escrow2 {
		t.Errorf("%+v", rc)
	}
	if rc = w.backUp("win7"); rc.Nothing == "" {
		t.Errorf("%+v", rc)
	}
	second.run(endpoint.Request{Kind: endpoint.Restore, From: rc.Point.Line.String(), VM: "back"})
	second.holds("back", now)
	if p := problem.Of(errOf(w.e.ImportBackupKeys("nothing"))); p.Code != "DS-KEY" {
		t.Error(p)
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestLostKey: where the newest backup is encrypted and the key is not here any more, nothing is sent in the clear.
func TestLostKey(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	w.writes("win7", image.System, 700, []byte("mine"))
	w.backUp("win7")
	key := w.exported()
	w.close()
	if err := os.Remove(filepath.Join(w.dir, "backup-key.txt")); err != nil {
		t.Fatal(err)
	}
	w.open()
	now := disk(1, 2)
	copy(now[700:], "more of it")
	w.writes("win7", image.System, 700, []byte("more of it"))
	if c, s := w.fail(endpoint.Request{Kind: endpoint.Backup, VM: "win7"}); c != "DS-BACKUP-KEY" {
		t.Errorf("%s, %v", c, s.Outcome())
	}
	if _, err := w.e.ImportBackupKeys(key); err != nil {
		t.Fatal(err)
	}
	w.backUp("win7")
	w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	w.holds("back", now)
	w.close()
	if err := os.WriteFile(filepath.Join(w.dir, "backup-key.txt"), []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := endpoint.Open(t.Context(), endpoint.Options{Dir: w.dir})
	if p := problem.Of(err); p.Code != "DS-KEY-DAMAGED" || strings.Contains(p.Error(), "spoiled") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "backup-key.txt"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
}

// TestAnotherKey: a key in the place of another opens all of the next point alone, and the old one what it did.
func TestAnotherKey(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	first := w.encrypting()
	one, two := disk(1, 2), disk(1, 2)
	copy(one[700:], "first")
	w.writes("win7", image.System, 700, []byte("first"))
	w.backUp("win7")
	old := w.exported()
	second, err := w.e.NewBackupKey(true)
	if got := w.e.BackupKeys(); err != nil || !slices.Equal(got, []string{second, first}) {
		t.Fatalf("%v, %v", got, err)
	}
	copy(two[700:], "other")
	w.writes("win7", image.System, 700, []byte("other"))
	if rc := w.backUp("win7"); !slices.Equal(rc.Point.Recipients, []string{second}) {
		t.Errorf("%+v", rc.Point)
	}
	_, secret, _ := strings.Cut(w.exported(), "AGE-SECRET-KEY-1")
	for _, c := range []struct {
		key     string
		opens   image.Version
		want    []byte
		doesNot image.Version
	}{{"AGE-SECRET-KEY-1" + strings.Fields(secret)[0], 2, two, 1}, {old, 1, one, 2}} {
		other := w.elsewhere()
		if _, err := other.e.ImportBackupKeys(c.key); err != nil {
			t.Fatal(err)
		}
		other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: c.opens, VM: "back"})
		other.holds("back", c.want)
		if code, _ := other.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: c.doesNot, VM: "x"}); code != "DS-BACKUP-KEY" {
			t.Errorf("point %d with the key of point %d: %s", c.doesNot, c.opens, code)
		}
		other.close()
		if err := os.RemoveAll(other.dir); err != nil {
			t.Fatal(err)
		}
	}
}

func anotherKey(t *testing.T) string {
	t.Helper()
	k, err := agefile.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return k.Secret()
}

// TestLenders: keys are there as long as one of those who lent them has not returned them, and nobody returns those of others.
func TestLenders(t *testing.T) {
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	me := w.encrypting()
	w.writes("win7", image.System, 700, []byte("secret"))
	w.backUp("win7")
	key := w.exported()
	other := w.elsewhere()
	opens := func(want bool, when string) {
		t.Helper()
		v, err := other.e.OpenDisk(t.Context(), "win7", 1, image.System)
		if err == nil {
			err = v.Close()
		}
		if want != (err == nil) || !want && code(t, err) != "DS-BACKUP-KEY" {
			t.Errorf("%s: %v", when, err)
		}
	}
	lend := func(lender, text string) {
		t.Helper()
		if got, err := other.e.LendBackupKeys(lender, text); err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
	}
	opens(false, "nobody has lent anything")
	lend("a", key)
	lend("b", key)
	other.e.ReturnBackupKeys("c", []string{me})
	other.e.ReturnAllBackupKeys("c")
	other.e.ReturnBackupKeys("a", []string{me, "nobody"})
	opens(true, "b has not returned it")
	other.e.ReturnBackupKeys("a", []string{me})
	opens(true, "a has returned it twice")
	lend("b", key)
	lend("b", key)
	other.e.ReturnBackupKeys("b", []string{me})
	opens(false, "it was lent again and again, and returned")
	lend("a", key)
	lend("a", anotherKey(t))
	other.e.ReturnBackupKeys("a", nil)
	opens(true, "a has returned nothing")
	other.e.ReturnAllBackupKeys("a")
	opens(false, "a has returned all")

	var err error
	for range 1000 {
		if _, err = other.e.LendBackupKeys("a", anotherKey(t)); err != nil {
			break
		}
	}
	if code(t, err) != "DS-KEY" {
		t.Errorf("keys without end are lent: %v", err)
	}
}
