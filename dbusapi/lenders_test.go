package dbusapi_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/vhd/vhdfile"
)

// lendable is a service that has no key, with an encrypted backup, and the key that opens it.
func lendable(t *testing.T) (r *rig, key string) {
	t.Helper()
	r = newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	must[string](r, "/", ownFace+".new_backup_key", false)
	key = must[string](r, "/", ownFace+".export_backup_keys")
	r.await(r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"}), "finished")
	r.write("win7", "secret")
	r.await(r.begin(endpoint.Request{Kind: endpoint.Backup, VM: "win7"}), "finished")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.dir, "backup-key.txt")); err != nil {
		t.Fatal(err)
	}
	r.start()
	return r, key
}

// write writes to a VM's disk as the VM does.
func (r *rig) write(vm, text string) {
	r.t.Helper()
	records, err := filepath.Glob(filepath.Join(r.dir, "vms", "*.json"))
	if err != nil || len(records) != 1 {
		r.t.Fatal(records, err)
	}
	b, err := os.ReadFile(records[0])
	if err != nil {
		r.t.Fatal(err)
	}
	var v deploy.VM
	if err := json.Unmarshal(b, &v); err != nil || v.Name != vm {
		r.t.Fatal(v.Name, err)
	}
	d, err := vhdfile.OpenDisk(filepath.Join(r.dir, filepath.FromSlash(deploy.Path(v.Current.Disks[0].Leaf))), vhdfile.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = d.WriteAt([]byte(text), 700)
	if err := errors.Join(err, d.Sync(), d.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// opens reports whether the service has the key of the backup.
func (r *rig) opens() bool {
	r.t.Helper()
	err := r.call("/", ownFace+".plan", `{"kind":"restore","from":"win7","vm":"back"}`).Err
	if err != nil && !strings.Contains(err.Error(), "no key that opens it is here") {
		r.t.Fatal(err)
	}
	return err == nil
}

// TestKeysLeaveWithTheirLender: keys are lent until they are returned, or whoever lent them has left the bus, in whatever way; nobody else
// returns them, nor by a signal that only looks as the bus's.
func TestKeysLeaveWithTheirLender(t *testing.T) {
	t.Parallel()
	r, key := lendable(t)
	if r.opens() {
		t.Fatal("it opens without a key")
	}
	lend := func(by *dbus.Conn) {
		t.Helper()
		if err := by.Object(service, "/").CallWithContext(t.Context(), ownFace+".lend_backup_keys", 0, key).Err; err != nil {
			t.Fatal(err)
		}
	}
	one, other := r.dial(), r.dial()
	lend(one)
	lend(other)
	lend(other)
	if !r.opens() {
		t.Error("a key that was lent opens nothing")
	}
	r.do("/", ownFace+".return_backup_keys", []string{recipient(t, key)})
	liar := r.dial()
	for _, name := range []string{one.Names()[0], other.Names()[0]} {
		msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/DBus")), dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.DBus"),
			dbus.FieldMember: dbus.MakeVariant("NameOwnerChanged"), dbus.FieldDestination: dbus.MakeVariant(service),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("", "", "")),
		}, Body: []any{name, name, ""}}
		if call := liar.Send(msg, nil); call != nil && call.Err != nil {
			t.Fatal(call.Err)
		}
	}
	// An answer to the liar says that the signals have come before it.
	if err := liar.Object(service, "/").CallWithContext(t.Context(), ownFace+".vms", 0).Err; err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if !r.opens() {
		t.Error("the key of one lender has left with another, or was returned by somebody else")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "the keys leave with who lent them", func() bool { return !r.opens() })

	// They are returned, and lent again by the same caller.
	third := r.dial()
	for range 3 {
		lend(third)
		if !r.opens() {
			t.Error("a key that was lent again opens nothing")
		}
		if err := third.Object(service, "/").CallWithContext(t.Context(), ownFace+".return_backup_keys", 0, []string{recipient(t, key)}).Err; err != nil {
			t.Fatal(err)
		}
		if r.opens() {
			t.Error("a key that was returned is there")
		}
	}
	lend(third)
	r.restart()
	if r.opens() {
		t.Error("the key is there after the service has ended")
	}
	if strings.Contains(r.log.String(), "SECRET") {
		t.Error("a secret is in the log")
	}
}

// recipient returns the public half of a key as age-keygen notes it.
func recipient(t *testing.T, key string) string {
	t.Helper()
	_, rest, ok := strings.Cut(key, "# public key: ")
	line, _, more := strings.Cut(rest, "\n")
	if !ok || !more {
		t.Fatal(errors.New("no recipient in the key"))
	}
	return line
}
