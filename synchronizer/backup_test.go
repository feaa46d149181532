package synchronizer_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"disksync/api"
	"disksync/image"
	"disksync/internal/faultfs"
	"disksync/internal/testkit"
	"disksync/synchronizer"
)

// vault is a house where alice has a VM of the image golden, with a line of backups.
type vault struct {
	*house
	golden packed
	alice  string // her token
	line   api.BackupLine
	built  map[string][]byte // disks by the layers that lead to them; nil: each is built whenever it is asked for
}

func newVault(t *testing.T) *vault {
	t.Helper()
	h := newHouse(t)
	v := &vault{house: h}
	h.user(t, "alice", false)
	v.golden = h.publish(t, "golden", 1, image.State{}, disk(1, 2, 3))
	h.assign(t, "golden", "user:alice", 0)
	v.alice = h.login(t, "alice", device(1))
	v.line = v.openLine(t, v.alice, "golden", 1)
	return v
}

// imageID returns the id of an image.
func (h *house) imageID(t *testing.T, name string) image.UUID {
	t.Helper()
	return into[api.Image](t, h.must(t, "GET", "/v1/images/"+name, nil)).ID
}

// openLine begins or finds the line of a VM of an image.
func (h *house) openLine(t *testing.T, token, name string, vm byte) api.BackupLine {
	t.Helper()
	return into[api.BackupLine](t, h.send(t, token, "POST", "/v1/backups", api.NewBackup{
		VM: image.RandomUUID([16]byte{15: vm}), Name: fmt.Sprintf("vm%d", vm), Image: name, ImageID: h.imageID(t, name),
	}))
}

// uploadAs is upload as a user.
func (h *house) uploadAs(t *testing.T, token string, p packed) api.Upload {
	t.Helper()
	u := into[api.Upload](t, h.send(t, token, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil))
	if u.State == api.Uploading {
		into[api.Upload](t, h.send(t, token, "PATCH", fmt.Sprintf("/v1/uploads/%s?offset=%d", p.id(), u.Offset), p.file[u.Offset:]))
	}
	h.WaitVerified()
	return into[api.Upload](t, h.send(t, token, "GET", "/v1/uploads/"+p.id(), nil))
}

func sealPoint(n image.Version, p packed) api.SealPoint {
	return api.SealPoint{Point: n, Version: 1, Consistency: image.Stopped,
		Disks: []api.PointDisk{{Role: image.System, State: p.State.ID(), Layer: p.name}}}
}

// points returns the path of a line's points.
func points(line api.BackupLine) string {
	return "/v1/backups/" + line.ID.String() + "/points"
}

// backUp uploads a disk and makes it the point n of alice's line.
func (v *vault) backUp(t *testing.T, n image.Version, from image.State, disk []byte) packed {
	t.Helper()
	p := pack(t, from, disk)
	if u := v.uploadAs(t, v.alice, p); u.State != api.Stored {
		t.Fatalf("upload: %+v", u)
	}
	into[api.BackupPoint](t, v.send(t, v.alice, "POST", points(v.line), sealPoint(n, p)))
	return p
}

// TestBackUp: from golden over two points, as the user sees it.
func TestBackUp(t *testing.T) {
	v := newVault(t)
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	two := v.backUp(t, 2, one.State, disk(1, 21, 3))
	lines := into[[]api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups", nil))
	if len(lines) != 1 || lines[0].Newest != 2 || len(lines[0].Points) != 2 || lines[0].Points[0].Verified.IsZero() || lines[0].Count != 2 ||
		lines[0].Bytes != int64(len(one.file)+len(two.file)) || lines[0].DeviceName != "laptop 1" || lines[0].Mode != image.Static {
		t.Errorf("%+v", lines)
	}
	a := v.send(t, v.alice, "GET", points(v.line)+"/2/manifest", nil)
	ver, err := image.VerifyManifest(a.body, v.SigningKey())
	if err != nil {
		t.Fatal(err)
	}
	m := ver.Manifest()
	if m.ImageID != v.line.ID || m.Version != 2 || m.Point == nil || m.Image != "golden" || len(m.Disks) != 1 || len(m.Disks[0].Layers) != 3 ||
		m.Disks[0].State != two.State.ID() {
		t.Errorf("%+v", m)
	}
	for _, l := range m.Disks[0].Layers {
		if a := v.send(t, v.alice, "GET", "/v1/layers/"+l.ID.String(), nil); a.status != 200 {
			t.Errorf("%v", a)
		}
	}
	if got := into[[]api.Layer](t, v.send(t, v.alice, "GET", points(v.line)+"/2/layers", nil)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestSealPoint goes through what is refused, and what is the same point again.
func TestSealPoint(t *testing.T) {
	v := newVault(t)
	h := v.house
	h.user(t, "bob", false)
	two := h.publish(t, "golden", 2, v.golden.State, disk(1, 2, 4))
	h.publish(t, "other", 1, image.State{}, disk(50))
	h.assign(t, "golden", "user:bob", 1)
	h.assign(t, "other", "user:bob", 0)
	bob := h.login(t, "bob", device(2))
	bobs := h.openLine(t, bob, "golden", 2)

	// The answer to the first point is lost.
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	a, b := v.send(t, v.alice, "POST", points(v.line), sealPoint(1, one)), v.send(t, v.alice, "POST", points(v.line), sealPoint(1, one))
	if a.status != 200 || a.String() != b.String() {
		t.Errorf("again: %v, %v", a, b)
	}
	next := pack(t, one.State, disk(1, 21, 3))
	v.uploadAs(t, v.alice, next)
	foreign := pack(t, v.golden.State, disk(9, 9, 9))
	v.uploadAs(t, bob, foreign)
	into[api.BackupPoint](t, v.send(t, bob, "POST", points(bobs), sealPoint(1, foreign)))
	loose := pack(t, v.golden.State, disk(8, 8, 8)) // stored, and no point's
	v.uploadAs(t, bob, loose)
	state := func(st image.State) api.SealPoint {
		in := sealPoint(2, next)
		in.Disks[0] = api.PointDisk{Role: image.System, State: st.ID()}
		return in
	}
	change := func(do func(in *api.SealPoint)) api.SealPoint {
		in := sealPoint(2, next)
		do(&in)
		return in
	}
	for _, c := range []struct {
		name string
		in   any
		want api.Code
	}{
		{"a number that is taken", sealPoint(1, next), api.CodeConflict},
		{"a number too far", sealPoint(3, next), api.CodeConflict},
		{"number 0", sealPoint(0, next), api.CodeInvalid},
		{"no version", change(func(in *api.SealPoint) { in.Version = 0 }), api.CodeInvalid},
		{"no consistency", change(func(in *api.SealPoint) { in.Consistency = "" }), api.CodeInvalid},
		{"odd consistency", `{"point":2,"version":1,"consistency":"good","disks":[]}`, api.CodeInvalid},
		{"no disks", change(func(in *api.SealPoint) { in.Disks = nil }), api.CodeInvalid},
		{"a disk twice", change(func(in *api.SealPoint) { in.Disks = append(in.Disks, in.Disks[0]) }), api.CodeInvalid},
		{"no state", change(func(in *api.SealPoint) { in.Disks[0].State = image.StateID{} }), api.CodeInvalid},
		{"no role", change(func(in *api.SealPoint) { in.Disks[0].Role = "" }), api.CodeInvalid},
		{"a long note", change(func(in *api.SealPoint) { in.Note = strings.Repeat("x", api.MaxNote+1) }), api.CodeInvalid},
		{"another state than the layer's", change(func(in *api.SealPoint) { in.Disks[0].State = one.State.ID() }), api.CodeConflict},
		{"no such layer", sealPoint(2, pack(t, image.State{}, disk(77))), api.CodeNotFound},
		{"somebody else's layer", sealPoint(2, foreign), api.CodeNotFound},
		{"somebody else's layer that no point has", sealPoint(2, loose), api.CodeNotFound},
		{"somebody else's state", state(foreign.State), api.CodeNotFound},
		{"no such state", state(stateOf(disk(66))), api.CodeNotFound},
	} {
		if a := v.send(t, v.alice, "POST", points(v.line), c.in); a.code() != c.want {
			t.Errorf("%s: %v, want %s", c.name, a, c.want)
		}
	}
	for name, token := range map[string]string{"bob": bob, "nobody": ""} {
		if a := v.send(t, token, "POST", points(v.line), sealPoint(2, next)); a.code() != api.CodeNotFound && a.code() != api.CodeUnauthorized {
			t.Errorf("for alice as %s: %v", name, a)
		}
	}
	h.user(t, "boss", true)
	for name, token := range map[string]string{"boss": h.login(t, "boss", device(3)), "local": asLocal} {
		if a := v.send(t, token, "POST", points(v.line), sealPoint(2, next)); a.code() != api.CodeForbidden {
			t.Errorf("for alice as %s: %v", name, a)
		}
	}
	if a := v.send(t, asLocal, "POST", "/v1/backups", api.NewBackup{VM: bobs.VM, Name: "x", Image: "golden", ImageID: bobs.ImageID}); a.code() != api.CodeInvalid {
		t.Errorf("a line of the socket's: %v", a)
	}
	into[api.BackupPoint](t, v.send(t, v.alice, "POST", points(v.line), sealPoint(2, next)))

	// A version that is meant for bob, one that is not, and one that was once.
	bobState := func(n image.Version, st image.State) answer {
		in := state(st)
		in.Point = n
		return v.send(t, bob, "POST", points(bobs), in)
	}
	if a := bobState(2, two.State); a.code() != api.CodeNotFound {
		t.Errorf("a version that is not meant for bob: %v", a)
	}
	h.assign(t, "golden", "user:bob", 2)
	if a := v.send(t, bob, "GET", "/v1/images/golden/versions/2/manifest", nil); a.status != 200 {
		t.Fatal(a)
	}
	h.assign(t, "golden", "user:bob", 1)
	if a := bobState(2, two.State); a.status != 200 {
		t.Errorf("a version that bob once got: %v", a)
	}
	if a := v.send(t, bob, "GET", "/v1/layers/"+two.id(), nil); a.status != 200 {
		t.Errorf("a layer of bob's point: %v", a)
	}
	if a := v.send(t, bob, "GET", "/v1/layers/"+next.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("a layer of alice's point: %v", a)
	}
	// A line of an image that was never bob's tells nothing of it.
	in := api.NewBackup{VM: image.RandomUUID([16]byte{15: 44}), Name: "x", Image: "guess", ImageID: v.line.ID}
	if l := into[api.BackupLine](t, v.send(t, bob, "POST", "/v1/backups", in)); l.Image != "guess" || l.Mode != image.Static {
		t.Errorf("%+v", l)
	}
	other := h.imageID(t, "other")
	h.must(t, "DELETE", "/v1/assignments", map[string]any{"image": "other", "to": "user:bob"})
	p := api.DefaultPolicy()
	p.Backup = &api.BackupPolicy{}
	h.must(t, "PUT", "/v1/images/other/policy", p)
	in.ImageID, in.VM = other, image.RandomUUID([16]byte{15: 45})
	if l := into[api.BackupLine](t, v.send(t, bob, "POST", "/v1/backups", in)); l.Image != "guess" || l.Every != 0 {
		t.Errorf("a guess that is right: %+v", l)
	}
	if mine := into[[]api.BackupLine](t, v.send(t, bob, "GET", "/v1/backups", nil)); len(mine) != 3 {
		t.Errorf("bob sees %+v", mine)
	}
	if a := v.send(t, bob, "GET", "/v1/backups?all=1", nil); a.code() != api.CodeForbidden {
		t.Errorf("bob sees all: %v", a)
	}
	if all := into[[]api.BackupLine](t, h.must(t, "GET", "/v1/backups?all=1", nil)); len(all) != 4 || len(all[0].Points) != 1 || all[0].Count != 2 {
		t.Errorf("%+v", all)
	}
	// Lines are no images.
	if images := into[[]api.Image](t, h.must(t, "GET", "/v1/images", nil)); len(images) != 2 {
		t.Errorf("%+v", images)
	}
}

// TestUploadsOfUsers: they are alone with them, and what is not used goes.
func TestUploadsOfUsers(t *testing.T) {
	v := newVault(t)
	v.user(t, "bob", false)
	v.assign(t, "golden", "user:bob", 0)
	bob := v.login(t, "bob", device(2))
	post := func(token string, p packed) answer {
		return v.send(t, token, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil)
	}
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	// Bob has the same by chance: he is not told, has to send it, and then it is his too.
	if u := into[api.Upload](t, post(bob, one)); u.State != api.Uploading || u.Offset != 0 {
		t.Errorf("%+v", u)
	}
	if a := v.send(t, bob, "GET", "/v1/layers/"+one.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("%v", a)
	}
	if u := v.uploadAs(t, bob, one); u.State != api.Stored {
		t.Errorf("%+v", u)
	}
	if a := v.send(t, bob, "GET", "/v1/layers/"+one.id(), nil); a.status != 200 {
		t.Errorf("%v", a)
	}
	// What leads from alice's state is for bob as if that were not there, even when it is right.
	if u := v.uploadAs(t, bob, pack(t, stateOf(disk(99)), disk(98))); u.State != api.Failed || u.Error.Code != api.CodeConflict {
		t.Errorf("from nowhere: %+v", u)
	}
	two := v.backUp(t, 2, one.State, disk(1, 21, 3))
	three := pack(t, two.State, disk(1, 22, 3))
	if u := v.uploadAs(t, bob, three); u.State != api.Failed || u.Error.Code != api.CodeConflict ||
		!strings.Contains(u.Error.Message, "is not here") {
		t.Errorf("from alice's: %+v", u)
	}
	// In the middle of the same layer neither sees nor stops the other.
	half := len(three.file) / 2
	for _, token := range []string{v.alice, bob} {
		into[api.Upload](t, post(token, three))
	}
	if a := v.send(t, v.alice, "PATCH", "/v1/uploads/"+three.id()+"?offset=0", three.file[:half]); a.status != 200 {
		t.Fatal(a)
	}
	if u := into[api.Upload](t, v.send(t, bob, "GET", "/v1/uploads/"+three.id(), nil)); u.Offset != 0 {
		t.Errorf("bob sees %+v", u)
	}
	if a := v.send(t, bob, "DELETE", "/v1/uploads/"+three.id(), nil); a.status != 204 {
		t.Errorf("%v", a)
	}
	if a := v.send(t, asLocal, "GET", "/v1/uploads/"+three.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("the administrator's: %v", a)
	}
	v.restart(t)
	if u := into[api.Upload](t, post(v.alice, three)); u.Offset != int64(half) {
		t.Errorf("after a restart: %+v", u)
	}
	// No more than so many at once.
	for i := range synchronizer.MaxUserUploads {
		a := v.send(t, v.alice, "POST", fmt.Sprintf("/v1/uploads/%064d?length=100", i), nil)
		if full := i == synchronizer.MaxUserUploads-1; (a.code() == api.CodeTooLarge) != full {
			t.Errorf("number %d: %v", i+2, a)
		}
	}
	// A day later all of it has gone that is no point's.
	v.restart(t)
	v.clock.advance(synchronizer.UserLayerLife - time.Minute)
	v.KeepHouse()
	v.WaitVerified()
	if u := into[api.Upload](t, post(v.alice, three)); u.Offset != int64(half) {
		t.Errorf("before the day is over: %+v", u)
	}
	v.clock.advance(2 * time.Minute)
	v.KeepHouse()
	v.WaitVerified()
	parts := func() []string {
		names, err := filepath.Glob(v.path("layers/*.part"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if left := parts(); len(left) != 1 {
		t.Errorf("left: %v", left) // alice has just asked for three
	}
	if a := v.send(t, bob, "GET", "/v1/layers/"+one.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("what bob did not use: %v", a)
	}
	loose := pack(t, two.State, disk(5, 5, 5))
	v.uploadAs(t, v.alice, loose)
	v.clock.advance(synchronizer.UserLayerLife + time.Minute)
	v.restart(t)
	v.WaitVerified()
	if left := parts(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(v.path(synchronizer.LayerFile(loose.id()))); err == nil {
		t.Error("a layer that nobody sealed is there")
	}
	// With its user an upload goes.
	into[api.Upload](t, post(v.alice, three))
	into[api.Upload](t, v.send(t, v.alice, "PATCH", "/v1/uploads/"+three.id()+"?offset=0", three.file[:half]))
	v.must(t, "DELETE", "/v1/users/alice", nil)
	v.WaitVerified()
	if left := parts(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestRoomForUsers: they leave some for others.
func TestRoomForUsers(t *testing.T) {
	fsys := faultfs.New()
	v := &vault{house: houseOn(t, fsys)}
	v.user(t, "alice", false)
	v.alice = v.login(t, "alice", device(1))
	p := pack(t, image.State{}, disk(1))
	path := fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file))
	fsys.SetFree(synchronizer.UserReserve + int64(len(p.file)) - 1)
	if a := v.send(t, v.alice, "POST", path, nil); a.code() != api.CodeNoSpace {
		t.Errorf("no room: %v", a)
	}
	fsys.SetFree(synchronizer.UserReserve + int64(len(p.file)))
	into[api.Upload](t, v.send(t, v.alice, "POST", path, nil))
	fsys.SetFree(synchronizer.UserReserve - 1)
	if a := v.send(t, v.alice, "PATCH", "/v1/uploads/"+p.id()+"?offset=0", p.file); a.code() != api.CodeNoSpace {
		t.Errorf("no room any more: %v", a)
	}
	if u := v.begin(t, p); u.State != api.Uploading {
		t.Errorf("an administrator: %+v", u)
	}
	fsys.SetFree(1 << 40)
	if u := v.uploadAs(t, v.alice, p); u.State != api.Stored {
		t.Errorf("%+v", u)
	}
}

// TestReadBack: what is damaged is found, told with every point that needs it, and no longer told when it was mended.
func TestReadBack(t *testing.T) {
	v := newVault(t)
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	two := v.backUp(t, 2, one.State, disk(1, 20, 30))
	tell := func() (out []string) {
		v.must(t, "POST", "/v1/backups/"+v.line.ID.String()+"/verify", nil)
		v.WaitVerified()
		line := into[api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups/"+v.line.ID.String(), nil))
		if line.Verifying {
			t.Error("it goes on")
		}
		damaged := 0
		for _, p := range line.Points {
			out = append(out, p.Damaged)
			if p.Damaged != "" {
				damaged++
			}
		}
		if line.Damaged != damaged {
			t.Errorf("%d damaged, it says %d", damaged, line.Damaged)
		}
		return out
	}
	good := []string{"", ""}
	if got := tell(); !slices.Equal(got, good) {
		t.Errorf("%q", got)
	}
	for _, c := range []struct {
		name  string
		layer packed
		spoil func(b []byte) []byte
		want  []string // what is said of each point
	}{
		{"a bit of a frame", two, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, []string{"", "layer " + two.name.Short()}},
		{"a bit of the index", two, func(b []byte) []byte { b[len(b)-30] ^= 1; return b }, []string{"", "layer " + two.name.Short()}},
		{"the end", one, func(b []byte) []byte { return b[:len(b)-1] }, []string{"layer " + one.name.Short(), "layer " + one.name.Short()}},
		{"all", one, func([]byte) []byte { return nil }, []string{"layer " + one.name.Short(), "layer " + one.name.Short()}},
		{"what is of the image", v.golden, func(b []byte) []byte { b[1<<20] ^= 1; return b },
			[]string{"in the content of the image: layer " + v.golden.name.Short(), "in the content of the image: layer " + v.golden.name.Short()}},
	} {
		name := v.path(synchronizer.LayerFile(c.layer.id()))
		if b := c.spoil(bytes.Clone(c.layer.file)); b != nil {
			write(t, name, b)
		} else {
			remove(t, name)
		}
		got := tell()
		for i, want := range c.want {
			if want == "" && got[i] != "" || !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: %q of point %d", c.name, got[i], i+1)
			}
		}
		write(t, name, c.layer.file)
		if got := tell(); !slices.Equal(got, good) {
			t.Errorf("%s: mended: %q", c.name, got)
		}
	}
	// By itself once in a while.
	verified := func() time.Time {
		v.KeepHouse()
		v.WaitVerified()
		return into[api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups/"+v.line.ID.String(), nil)).Points[1].Verified
	}
	before := verified()
	v.clock.advance(synchronizer.CheckEvery - time.Hour)
	if got := verified(); !got.Equal(before) {
		t.Errorf("read back too early, at %v", got)
	}
	v.clock.advance(2 * time.Hour)
	if got := verified(); !got.Equal(v.clock.now()) {
		t.Errorf("read back at %v", got)
	}
}

// TestDamagedStart: what a backup starts from is damaged; its user is told to start from elsewhere, and can.
func TestDamagedStart(t *testing.T) {
	v := newVault(t)
	old, next := disk(1, 20, 3), disk(1, 20, 3)
	one := v.backUp(t, 1, v.golden.State, old)
	copy(next[image.BlockSize:], "changed")
	file := bytes.Clone(one.file)
	file[len(file)/2] ^= 1
	write(t, v.path(synchronizer.LayerFile(one.id())), file)
	if u := v.uploadAs(t, v.alice, packOn(t, one.State, old, next)); u.State != api.Failed || u.Error.Code != api.CodeConflict ||
		!strings.Contains(u.Error.Message, "start from elsewhere") {
		t.Errorf("%+v", u)
	}
	two := v.backUp(t, 2, v.golden.State, next)
	m := v.manifest(t, 2)
	if len(m.Disks[0].Layers) != 2 || !bytes.Equal(v.build(t, m.Disks[0]), next) || m.Disks[0].State != two.State.ID() {
		t.Errorf("%+v", m.Disks)
	}
}

// TestManyAtOnce: endpoints of several users at the same hour, with all that is done beside.
func TestManyAtOnce(t *testing.T) {
	v := newVault(t)
	const users, n = 4, 4
	var wg sync.WaitGroup
	for u := range users {
		name := fmt.Sprintf("user%d", u)
		v.user(t, name, false)
		v.assign(t, "golden", "user:"+name, 0)
		token := v.login(t, name, device(byte(20+u)))
		var steps []packed
		from, old := v.golden.State, disk(1, 2, 3)
		for i := range n {
			d := bytes.Clone(old)
			copy(d[image.BlockSize:], fmt.Sprint(u/2, i)) // two users have the same
			p := packOn(t, from, old, d)
			steps, from, old = append(steps, p), p.State, d
		}
		wg.Go(func() {
			line := v.openLine(t, token, "golden", byte(u))
			for i, p := range steps {
				if err := v.backUpBeside(t, token, points(line), image.Version(i+1), p); err != nil {
					t.Errorf("%s, point %d: %v", name, i+1, err)
					return
				}
				if i > 0 {
					v.must(t, "DELETE", fmt.Sprintf("%s/%d", points(line), i), nil)
				}
				v.KeepHouse()
			}
		})
	}
	wg.Wait()
	v.WaitVerified()
	for _, l := range into[[]api.BackupLine](t, v.must(t, "GET", "/v1/backups?all=1", nil)) {
		if l.User != "alice" && (l.Newest != n || l.Count != 1 || l.Points[0].Damaged != "" || l.Points[0].Verified.IsZero()) {
			t.Errorf("%+v", l)
		}
	}
}

// backUpBeside is what an endpoint does while others do the same.
func (v *vault) backUpBeside(t *testing.T, token, to string, n image.Version, p packed) error {
	path := "/v1/uploads/" + p.id()
	if a := v.send(t, token, "POST", fmt.Sprintf("%s?length=%d", path, len(p.file)), nil); a.status != 200 {
		return fmt.Errorf("begin: %v", a)
	}
	if a := v.send(t, token, "PATCH", path+"?offset=0", p.file); a.status != 200 {
		return fmt.Errorf("send: %v", a)
	}
	var last answer
	testkit.Until(t, "the layer is stored", func() bool {
		last = v.send(t, token, "GET", path, nil)
		return !strings.Contains(string(last.body), `"verifying"`)
	})
	if !strings.Contains(string(last.body), `"stored"`) {
		return fmt.Errorf("verified: %v", last)
	}
	if a := v.send(t, token, "POST", to, sealPoint(n, p)); a.status != 200 {
		return fmt.Errorf("seal: %v", a)
	}
	return nil
}

// TestAdministratorsVM: who is an administrator can have a VM, too.
func TestAdministratorsVM(t *testing.T) {
	v := newVault(t)
	v.user(t, "boss", true)
	v.alice = v.login(t, "boss", device(5))
	v.line = v.openLine(t, v.alice, "golden", 5)
	d := disk(1, 20, 3)
	v.backUp(t, 1, v.golden.State, d)
	v.checkPoints(t, map[image.Version]written{1: {image.System: d}})
	if l := into[[]api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups", nil)); len(l) != 1 || l[0].User != "boss" {
		t.Errorf("%+v", l)
	}
}

// TestEdgesToPoints: layers of the image besides the point's own may lead to it as well.
func TestEdgesToPoints(t *testing.T) {
	v := newVault(t)
	two := v.publish(t, "golden", 2, v.golden.State, disk(1, 2, 4))
	full := pack(t, image.State{}, disk(1, 2, 4))
	v.store(t, full)
	v.must(t, "PUT", "/v1/images/golden/layers/"+full.id(), nil)
	v.backUp(t, 1, two.State, disk(1, 2, 5))
	v.must(t, "DELETE", "/v1/assignments", map[string]any{"image": "golden", "to": "user:alice"})
	got := into[[]api.Layer](t, v.send(t, v.alice, "GET", points(v.line)+"/1/layers", nil))
	if len(got) != 1 || got[0].ID != full.name {
		t.Errorf("%+v", got)
	}
	if a := v.send(t, v.alice, "GET", "/v1/layers/"+full.id(), nil); a.status != 200 {
		t.Errorf("%v", a)
	}
	if got := into[[]api.Layer](t, v.send(t, v.alice, "GET", points(v.line)+"/1/layers?have="+stateOf(disk(1, 2, 5)).ID().String(), nil)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if a := v.send(t, v.alice, "GET", points(v.line)+"/1/layers?have=x", nil); a.code() != api.CodeInvalid {
		t.Errorf("%v", a)
	}
}

// TestNewestDeleted: what the endpoint would start from has gone; it is told so, and no number is used again.
func TestNewestDeleted(t *testing.T) {
	v := newVault(t)
	one := v.backUp(t, 1, v.golden.State, disk(1, 20, 3))
	two := v.backUp(t, 2, one.State, disk(1, 21, 3))
	v.must(t, "DELETE", points(v.line)+"/2", nil)
	v.WaitVerified()
	if a := v.send(t, v.alice, "POST", points(v.line), sealPoint(2, two)); a.code() != api.CodeConflict {
		t.Errorf("number 2 again: %v", a)
	}
	three := pack(t, two.State, disk(1, 22, 3))
	if u := v.uploadAs(t, v.alice, three); u.State != api.Failed || u.Error.Code != api.CodeConflict {
		t.Errorf("from what has gone: %+v", u)
	}
	in := sealPoint(3, two)
	in.Disks[0].Layer = image.LayerID{}
	if a := v.send(t, v.alice, "POST", points(v.line), in); a.code() != api.CodeNotFound {
		t.Errorf("what has gone: %v", a)
	}
	d := disk(1, 22, 3)
	v.backUp(t, 3, one.State, d)
	v.checkPoints(t, map[image.Version]written{1: {image.System: disk(1, 20, 3)}, 3: {image.System: d}})
}
