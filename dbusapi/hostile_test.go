package dbusapi_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/api"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

const ownError = "org.disksync.Error.Failed"

// alive checks that the service still answers, and what became of its settings.
func (r *rig) alive() {
	r.t.Helper()
	if out, exit := r.xec("get", "enable-usb-cache"); exit != 0 || out != "true\n" {
		r.t.Fatalf("the service does not answer any more: %s", out)
	}
}

func TestMalformedRequests(t *testing.T) {
	r := newRig(t)
	deep := strings.Repeat("[", 20000)
	for _, text := range []string{
		"", " ", "null", "1", `"download"`, "[]", "[[]]", "{", "{}", `{"kind":}`, `{"kind":1}`, `{"kind":"download"`, `{"kind":"download"}}`,
		`{"kind":"download"} {"kind":"download"}`, `{"kind":"layers"}`, `{"kind":"other"}`, `{"kind":"Download"}`, `{"kind":"download","vm":"../x"}`,
		`{"kind":"download","vm":"a b"}`, `{"kind":"download","version":-1}`, `{"kind":"download","version":4294967296}`,
		`{"kind":"download","version":1.5}`, `{"kind":"download","version":"1"}`, `{"kind":"download","media":"x"}`, `{"kind":"download","media":[1]}`,
		`{"kind":"download","state":"finished"}`, `{"kind":"download","replace":"yes"}`, `{"kind":"download","vm":"` + strings.Repeat("x", 65) + `"}`,
		`{"kind":"download","image":"` + strings.Repeat("x", 1<<20) + `"}`, deep, `{"media":` + deep, strings.Repeat(" ", 1<<20),
		`{"kind":"update","vm":"x\u0000y"}`, "\ufeff{}",
	} {
		for _, method := range []string{"start", "plan"} {
			if method == "plan" && strings.Contains(text, `"vm":`) {
				continue // a plan looks the VM up, and does not find it
			}
			err := r.call("/", ownFace+"."+method, text).Err
			e, ok := err.(dbus.Error)
			if !ok || e.Name != ownError || len(e.Body) != 5 || e.Body[3] != "DS-USAGE" || e.Body[4] != int32(2) {
				t.Errorf("%s %.60q: %#v", method, text, err)
				continue
			}
			if n := len(fmt.Sprint(e.Body...)); n > 500 {
				t.Errorf("%s %.60q: the answer has %d bytes", method, text, n)
			}
		}
	}
	if groups := must[[]dbus.ObjectPath](r, "/", mainFace+".list_disk_groups"); len(groups) != 0 {
		t.Errorf("they made groups: %v", groups)
	}
	r.alive()
}

func TestHugeArguments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lab.Start(t)
	r.do("/", ownFace+".register", l.URL, l.Fingerprint.String(), false)
	huge := strings.Repeat("x", 4<<20)
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	disk := must[dbus.ObjectPath](r, group, groupFace+".create_disk", "00000000-0000-0000-0000-000000000001", "down")
	url := l.URL + "/" + api.Version + "/layers/" + strings.Repeat("ab", 32)
	const uuid = "00000000-0000-0000-0000-000000000002"
	calls := []struct {
		path   dbus.ObjectPath
		method string
		args   []any
	}{
		{group, groupFace + ".create_disk", []any{huge, "down"}},
		{group, groupFace + ".create_disk", []any{uuid, huge}},
		{disk, diskFace + ".create_image", []any{huge, url, "", "", "", "", false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, huge, "", "", "", "", false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, url, huge, "", "", "", false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, url, "", huge, "", "", false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, url, "", "", huge, "", false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, url, "", "", "", huge, false, ""}},
		{disk, diskFace + ".create_image", []any{uuid, url, "", "", "", "", false, huge}},
		{"/", propFace + ".Get", []any{confFace, huge}},
		{"/", propFace + ".Get", []any{huge, "x"}},
		{"/", propFace + ".GetAll", []any{huge}},
		{"/", propFace + ".Set", []any{confFace, huge, dbus.MakeVariant(true)}},
		{"/", ownFace + ".probe", []any{huge}},
		{"/", ownFace + ".register", []any{huge, l.Fingerprint.String(), false}},
		{"/", ownFace + ".register", []any{l.URL, huge, false}},
		{"/", ownFace + ".login", []any{huge, "x"}},
		{"/", ownFace + ".login", []any{"x", huge}},
		{"/", ownFace + ".rollback", []any{huge}},
		{"/", ownFace + ".remove", []any{huge}},
		{"/", ownFace + ".export", []any{huge, "system"}},
		{"/", ownFace + ".export", []any{"x", huge}},
		{"/", ownFace + ".media", []any{[]string{huge}}},
		{"/", ownFace + ".operation", []any{dbus.ObjectPath("/" + huge)}},
	}
	for _, c := range calls {
		err := r.call(c.path, c.method, c.args...).Err
		if c.method == ownFace+".media" || c.method == ownFace+".export" && err == nil {
			continue // the answer tells of the failure elsewhere
		}
		e, ok := err.(dbus.Error)
		if !ok {
			t.Errorf("%s: %v", c.method, err)
			continue
		}
		if n := len(fmt.Sprint(e.Body...)); n > 4096 {
			t.Errorf("%s: the answer has %d bytes", c.method, n)
		}
	}
	if images := must[[]dbus.ObjectPath](r, disk, diskFace+".list_images"); len(images) != 0 {
		t.Errorf("images %v", images)
	}
	if n := folderSize(t, r.dir); n > 64<<10 {
		t.Errorf("the state folder has %d bytes", n)
	}
	if n := len(r.log.String()); n > 64<<10 {
		t.Errorf("the log has %d bytes", n)
	}
	r.alive()
}

func folderSize(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		n += st.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestManyGroups: a caller in a loop comes to an end, and what is left can be read again.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	const limits = "org.freedesktop.DBus.Error.LimitsExceeded"
	r := newRig(t)
	l := lab.Start(t)
	r.do("/", ownFace+".register", l.URL, l.Fingerprint.String(), false)
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	var err error
	disks, images := 0, 0
	var disk dbus.ObjectPath
	for ; disks < 1000; disks++ {
		var d dbus.ObjectPath
		if err = r.call(group, groupFace+".create_disk", number(disks), "down").Store(&d); err != nil {
			break
		}
		disk = d
	}
	wantError(t, err, limits)
	text := strings.Repeat("x", 1024)
	for ; images < 1000; images++ {
		url := fmt.Sprintf("%s/%s/layers/%064x", l.URL, api.Version, images)
		if err = r.call(disk, diskFace+".create_image", number(images), url, "", text, text, text, false, text).Err; err != nil {
			break
		}
	}
	wantError(t, err, limits)
	if disks < 16 || images < 128 {
		t.Errorf("a group had room for %d disks and %d images only", disks, images)
	}
	r.restart()
	if got := must[[]dbus.ObjectPath](r, group, groupFace+".list_disks"); len(got) != disks {
		t.Errorf("after a restart there are %d disks of %d", len(got), disks)
	}
	if got := must[[]dbus.ObjectPath](r, disk, diskFace+".list_images"); len(got) != images {
		t.Errorf("after a restart there are %d images of %d", len(got), images)
	}
	r.do(group, groupFace+".delete")

	groups := 0
	for ; groups < 10000; groups++ {
		if err = r.call("/", mainFace+".create_disk_group").Err; err != nil {
			break
		}
	}
	wantError(t, err, limits)
	wantError(t, r.call("/", ownFace+".start", `{"kind":"verify"}`).Err, limits)
	all := must[[]dbus.ObjectPath](r, "/", mainFace+".list_disk_groups")
	if len(all) != groups || groups < 500 {
		t.Errorf("%d groups were made, %d are there", groups, len(all))
	}
	r.do(all[0], groupFace+".delete")
	must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	r.alive()
}

func number(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }

// TestCallsAtOnce: calls that come at once for the same group leave it whole, here and in its file.
func TestCallsAtOnce(t *testing.T) {
	r := newRig(t)
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	var wg sync.WaitGroup
	const callers, each = 8, 6
	for c := range callers {
		conn := r.dial()
		wg.Go(func() {
			for k := range each {
				obj := conn.Object(service, group)
				if err := obj.Call(groupFace+".create_disk", 0, number(c*each+k), "down").Err; err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				if err := conn.Object(service, "/").Call(debugFace+".dump_tasks", 0).Err; err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := must[[]dbus.ObjectPath](r, group, groupFace+".list_disks"); len(got) != callers*each {
		t.Errorf("%d disks of %d", len(got), callers*each)
	}
	r.restart()
	if got := must[[]dbus.ObjectPath](r, group, groupFace+".list_disks"); len(got) != callers*each {
		t.Errorf("after a restart %d disks of %d", len(got), callers*each)
	}
}

// liar is a Synchronizer whose words are not fit for a bus: they have NULs, and steer terminals.
func liar(t *testing.T) (url, fingerprint string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/server") {
			_ = json.NewEncoder(w).Encode(api.Server{Name: "liar", SigningKey: image.PublicKey(public)})
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"code":"bad_login","message":"a\u0000b\u001b[2Jc` + "\xff" + `"}`))
	}))
	t.Cleanup(s.Close)
	sum := sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	return s.URL, hex.EncodeToString(sum[:])
}

func TestWordsOfALiar(t *testing.T) {
	r := newRig(t)
	url, fingerprint := liar(t)
	r.do("/", ownFace+".register", url, fingerprint, false)
	err := r.call("/", ownFace+".login", "alice", "x").Err
	e, ok := err.(dbus.Error)
	if !ok || e.Name != ownError || strings.Contains(fmt.Sprint(e.Body...), "\x00") {
		t.Errorf("the answer is %#v", err)
	}
	r.alive()
}

// TestOddStateFolder: the name of a folder is anything but a NUL, a text on a bus is not.
func TestOddStateFolder(t *testing.T) {
	r := &rig{t: t, log: &testkit.Buffer{}, dir: filepath.Join(t.TempDir(), "state-\xff-\n")}
	r.bus = testkit.StartBus(t, testkit.SessionBus)
	r.start()
	r.conn = r.dial()
	if got := property[string](r, "/", ownFace, "state-folder"); !strings.HasSuffix(got, "state-?-\n") {
		t.Errorf("state folder %q", got)
	}
	if out, ok := r.busctl("introspect", service, "/"); !ok {
		t.Errorf("busctl: %s", out)
	}
	r.alive()
}

// TestPasswordIsNowhere: whether it was right or wrong, a password is in no log, no answer and no file.
func TestPasswordIsNowhere(t *testing.T) {
	t.Parallel()
	const wrong = "hunter2-is-wrong"
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	if err := r.call("/", ownFace+".login", "alice", wrong).Err; err == nil || strings.Contains(fmt.Sprintf("%#v", err), wrong) {
		t.Errorf("before the registration: %v", err)
	}
	r.do("/", ownFace+".register", l.URL, l.Fingerprint.String(), false)
	if err := r.call("/", ownFace+".login", "alice", wrong).Err; err == nil || strings.Contains(fmt.Sprintf("%#v", err), wrong) {
		t.Errorf("a wrong password: %v", err)
	}
	r.do("/", ownFace+".login", "alice", lab.Password)
	if got := property[string](r, "/", ownFace, "user"); got != "alice" {
		t.Errorf("user %q", got)
	}
	if got := must[string](r, "/", ownFace+".operations"); got != "[]" {
		t.Errorf("operations %s", got)
	}
	r.do("/", ownFace+".logout")
	for _, secret := range []string{wrong, lab.Password} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("the log has the password %q", secret)
		}
		err := filepath.WalkDir(r.dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(p)
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s has the password %q", p, secret)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
