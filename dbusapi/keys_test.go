package dbusapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/internal/problem"
	"disksync/internal/testkit/lab"
)

// TestBackupKeys: everything that the commands do with keys can be done over the bus, and no property, signal or answer that is not asked
// for keys has one.
func TestBackupKeys(t *testing.T) {
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	c := r.client()
	me, err := c.NewBackupKey(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	text := must[string](r, "/", ownFace+".export_backup_keys")
	_, secret, ok := strings.Cut(text, "AGE-SECRET-KEY-1")
	if !ok || !strings.Contains(text, me) {
		t.Fatal("no key was exported")
	}
	secret = secret[:40]
	if _, err := c.NewBackupKey(t.Context(), false); problem.Of(err).Code != "DS-KEY-EXISTS" {
		t.Errorf("%v", err)
	}
	for _, do := range []func(string) error{
		func(s string) error { _, err := c.ImportBackupKeys(t.Context(), s); return err },
		func(s string) error { _, err := c.LendBackupKeys(t.Context(), s); return err },
	} {
		if err := do(text + "x"); problem.Of(err).Code != "DS-KEY" || strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("%v", err)
		}
		if err := do(strings.Repeat("x", 100<<10)); problem.Of(err).Code != "DS-KEY" {
			t.Errorf("%v", err)
		}
		if err := do(text); err != nil {
			t.Error(err)
		}
	}
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	r.await(group, "finished")
	r.await(r.begin(endpoint.Request{Kind: endpoint.Backup, VM: "win7"}), "finished")
	said := r.log.String() + must[string](r, "/", ownFace+".operations") + must[string](r, "/", ownFace+".vms") + must[string](r, "/", ownFace+".backup_keys") +
		must[string](r, "/", ownFace+".registration")
	for _, path := range r.everything() {
		for face := range r.describe(path).members {
			values := map[string]dbus.Variant{}
			if err := r.call(path, propFace+".GetAll", face).Store(&values); err == nil {
				said += fmt.Sprint(values)
			}
		}
	}
	if !strings.Contains(said, me) || strings.Contains(said, secret) || strings.Contains(said, "SECRET") {
		t.Error("a secret is told to those who look")
	}
	if err := c.ReturnBackupKeys(t.Context(), []string{me, "nobody"}); err != nil {
		t.Error(err)
	}
	if got, err := c.BackupKeys(t.Context()); err != nil || len(got) != 1 || got[0] != me {
		t.Errorf("%v, %v", got, err)
	}
}
