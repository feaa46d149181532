package synchronizer_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"disksync/agefile"
	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// sealed is a layer in an age file.
type sealed struct {
	packed
	query url.Values
}

// sealIt encrypts a layer for recipients.
func sealIt(t *testing.T, p packed, recipients ...string) sealed {
	t.Helper()
	var b bytes.Buffer
	w, err := agefile.Writer(&b, recipients)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p.file); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := sealed{p, url.Values{"sealed": {strings.Join(recipients, ".")}, "to": {p.State.ID().String()}, "size": {fmt.Sprint(p.State.Size)}}}
	if from := p.Index.From(); !from.IsZero() {
		s.query.Set("from", from.String())
	}
	s.file, s.name = b.Bytes(), sha256.Sum256(b.Bytes())
	return s
}

func (s sealed) path() string {
	return fmt.Sprintf("/v1/uploads/%s?length=%d&%s", s.id(), len(s.file), s.query.Encode())
}

// sendSealed uploads a sealed layer as alice.
func (v *vault) sendSealed(t *testing.T, s sealed) api.Upload {
	t.Helper()
	into[api.Upload](t, v.send(t, v.alice, "POST", s.path(), nil))
	into[api.Upload](t, v.send(t, v.alice, "PATCH", fmt.Sprintf("/v1/uploads/%s?offset=0", s.id()), s.file))
	v.WaitVerified()
	return into[api.Upload](t, v.send(t, v.alice, "GET", "/v1/uploads/"+s.id(), nil))
}

// backUpSealed makes a sealed layer the point n of alice's line.
func (v *vault) backUpSealed(t *testing.T, n image.Version, s sealed) {
	t.Helper()
	if u := v.sendSealed(t, s); u.State != api.Stored {
		t.Fatalf("upload: %+v %v", u, u.Error)
	}
	into[api.BackupPoint](t, v.send(t, v.alice, "POST", points(v.line), sealPoint(n, s.packed)))
}

func recipients(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		k, err := agefile.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k.Recipient())
	}
	return out
}

// starts asks from which states layers for some recipients may start.
func (v *vault) starts(t *testing.T, recipients []string, states ...image.State) []api.Start {
	t.Helper()
	in := api.NewBackup{VM: v.line.VM, Name: v.line.Name, Image: v.line.Image, ImageID: v.line.ImageID, Sealed: recipients}
	for _, st := range states {
		in.Starts = append(in.Starts, st.ID())
	}
	return into[api.BackupLine](t, v.send(t, v.alice, "POST", "/v1/backups", in)).Starts
}

// TestSealedLayers: what is said of them, what they may follow, and who may not have them.
func TestSealedLayers(t *testing.T) {
	v := newVault(t)
	r := recipients(t, 3)
	me, escrow := r[0], r[1]
	a, b, c := disk(1, 20, 3), disk(1, 21, 3), disk(1, 22, 3)
	one := sealIt(t, pack(t, v.golden.State, a), me)
	for name, change := range map[string]func(q url.Values){
		"no recipient":            func(q url.Values) { q.Set("sealed", "x") },
		"a recipient twice":       func(q url.Values) { q.Set("sealed", me+"."+me) },
		"too many recipients":     func(q url.Values) { q.Set("sealed", strings.Join(recipients(t, 33), ".")) },
		"nowhere to lead to":      func(q url.Values) { q.Del("to") },
		"to nothing":              func(q url.Values) { q.Set("to", image.StateID{}.String()) },
		"to where it starts from": func(q url.Values) { q.Set("to", q.Get("from")) },
		"an odd size":             func(q url.Values) { q.Set("size", "1000") },
		"no size":                 func(q url.Values) { q.Del("size") },
		"an odd start":            func(q url.Values) { q.Set("from", "x") },
	} {
		bad := sealed{one.packed, url.Values{}}
		for k, x := range one.query {
			bad.query[k] = slices.Clone(x)
		}
		change(bad.query)
		if ans := v.send(t, v.alice, "POST", bad.path(), nil); ans.code() != api.CodeInvalid {
			t.Errorf("%s: %v", name, ans)
		}
	}
	v.backUpSealed(t, 1, one)
	two := sealIt(t, pack(t, one.State, b), me, escrow)
	if ans := v.send(t, v.alice, "POST", two.path(), nil); ans.code() != api.CodeConflict {
		t.Errorf("what escrow cannot read below what it can: %v", ans)
	}
	if got := v.starts(t, []string{me}, one.State, v.golden.State, stateOf(disk(99))); len(got) != 2 || got[0].Layers != 1 ||
		got[0].Bytes != int64(len(one.file)) || got[1].Layers != 0 {
		t.Errorf("%+v", got)
	}
	if got := v.starts(t, []string{me, escrow}, one.State, v.golden.State); len(got) != 1 || got[0].State != v.golden.State.ID() {
		t.Errorf("with escrow: %+v", got)
	}
	two = sealIt(t, pack(t, v.golden.State, b), me, escrow)
	v.backUpSealed(t, 2, two)
	v.backUpSealed(t, 3, sealIt(t, pack(t, two.State, c), me))
	m := v.manifest(t, 3).Disks[0]
	if len(m.Layers) != 3 || m.Layers[1].ID != two.name || !slices.Equal(m.Layers[1].Sealed, []string{me, escrow}) || m.Layers[0].Sealed != nil {
		t.Errorf("%+v", m.Layers)
	}
	l := into[api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups/"+v.line.ID.String(), nil))
	if got := l.Points[2].Disks[0].Sealed; !slices.Equal(got, []string{me}) {
		t.Errorf("%v", got)
	}
	// Nothing but sealed layers of the same user starts from one, and nothing is published that is sealed.
	if u := v.uploadAs(t, v.alice, pack(t, two.State, disk(7, 7, 7))); u.State != api.Failed || u.Error.Code != api.CodeConflict {
		t.Errorf("a layer that is not sealed: %+v", u)
	}
	v.user(t, "bob", false)
	v.assign(t, "golden", "user:bob", 0)
	bob := v.login(t, "bob", device(2))
	if ans := v.send(t, bob, "POST", sealIt(t, pack(t, two.State, a), me).path(), nil); ans.code() != api.CodeConflict {
		t.Errorf("bob's on alice's: %v", ans)
	}
	if ans := v.send(t, bob, "GET", "/v1/layers/"+two.id(), nil); ans.code() != api.CodeNotFound {
		t.Errorf("bob gets alice's: %v", ans)
	}
	for _, seal := range []api.Seal{
		{Version: 2, Disks: []api.SealDisk{{Role: image.System, Layer: two.name}}}, {Version: 1, Disks: []api.SealDisk{{Role: image.System, Layer: two.name}}},
	} {
		for _, name := range []string{"golden", "new"} {
			if ans := v.send(t, asLocal, "POST", "/v1/images/"+name+"/versions", seal); ans.code() != api.CodeConflict {
				t.Errorf("published as %s: %v", name, ans)
			}
		}
	}
	if ans := v.send(t, asLocal, "PUT", "/v1/images/golden/layers/"+two.id(), nil); ans.code() != api.CodeConflict {
		t.Errorf("as a layer of the image: %v", ans)
	}
}

// TestSealedLies: what a user says of a sealed layer opens nothing that is not the user's.
func TestSealedLies(t *testing.T) {
	v := newVault(t)
	v.assign(t, "golden", "user:alice", 1)
	secret := v.publish(t, "golden", 2, v.golden.State, disk(1, 2, 4))
	full := pack(t, image.State{}, disk(1, 2, 4))
	v.upload(t, full)
	v.must(t, "PUT", "/v1/images/golden/layers/"+full.id(), nil)
	me := recipients(t, 1)[0]
	lie := sealIt(t, pack(t, v.golden.State, disk(9)), me)
	lie.query.Set("to", secret.State.ID().String())
	lie.State = secret.State
	v.backUpSealed(t, 1, lie)
	for _, p := range []packed{secret, full} {
		if ans := v.send(t, v.alice, "GET", "/v1/layers/"+p.id(), nil); ans.code() != api.CodeNotFound {
			t.Errorf("a layer of a version that is not hers: %v", ans)
		}
	}
	if u := v.uploadAs(t, v.alice, pack(t, secret.State, disk(1, 2, 5))); u.State != api.Failed || u.Error.Code != api.CodeConflict {
		t.Errorf("a layer that starts there: %+v", u)
	}
	if got := into[[]api.Layer](t, v.send(t, v.alice, "GET", points(v.line)+"/1/layers", nil)); slices.ContainsFunc(got, func(l api.Layer) bool { return l.ID == secret.name }) {
		t.Errorf("%+v", got)
	}
}

// TestSealedBytes: the bytes are compared with the name, when they come, when somebody asks, and by themselves.
func TestSealedBytes(t *testing.T) {
	v := newVault(t)
	me := recipients(t, 1)[0]
	one := sealIt(t, pack(t, v.golden.State, disk(1, 20, 3)), me)
	wrong := one
	wrong.file = bytes.Clone(one.file)
	wrong.file[len(wrong.file)/2] ^= 1
	if u := v.sendSealed(t, wrong); u.State != api.Failed || u.Error.Code != api.CodeDamaged {
		t.Errorf("%+v", u)
	}
	plain := one
	plain.file = []byte("no age file, though its name is right")
	plain.name = sha256.Sum256(plain.file)
	if u := v.sendSealed(t, plain); u.State != api.Failed || u.Error.Code != api.CodeDamaged {
		t.Errorf("%+v", u)
	}
	// In the middle the Synchronizer is started anew.
	into[api.Upload](t, v.send(t, v.alice, "POST", one.path(), nil))
	half := len(one.file) / 2
	into[api.Upload](t, v.send(t, v.alice, "PATCH", "/v1/uploads/"+one.id()+"?offset=0", one.file[:half]))
	v.restart(t)
	if u := into[api.Upload](t, v.send(t, v.alice, "POST", one.path(), nil)); u.Offset != int64(half) {
		t.Fatalf("%+v", u)
	}
	other := one
	other.query = url.Values{"sealed": {me}, "to": {stateOf(disk(5)).ID().String()}, "size": one.query["size"]}
	if ans := v.send(t, v.alice, "POST", other.path(), nil); ans.code() != api.CodeConflict {
		t.Errorf("the same as another layer: %v", ans)
	}
	into[api.Upload](t, v.send(t, v.alice, "PATCH", fmt.Sprintf("/v1/uploads/%s?offset=%d", one.id(), half), one.file[half:]))
	v.WaitVerified()
	into[api.BackupPoint](t, v.send(t, v.alice, "POST", points(v.line), sealPoint(1, one.packed)))
	damaged := func() string {
		v.WaitVerified()
		return into[api.BackupLine](t, v.send(t, v.alice, "GET", "/v1/backups/"+v.line.ID.String(), nil)).Points[0].Damaged
	}
	name := v.path("layers/" + one.id() + ".dsl")
	for i, b := range [][]byte{wrong.file, one.file[:half], nil} {
		if b == nil {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			v.clock.advance(31 * 24 * time.Hour)
			v.KeepHouse()
		} else {
			v.must(t, "POST", "/v1/backups/"+v.line.ID.String()+"/verify", nil)
		}
		if damaged() == "" {
			t.Errorf("number %d was not found", i)
		}
		if got := v.starts(t, []string{me}, one.State, v.golden.State); len(got) != 1 {
			t.Errorf("what is damaged is started from: %+v", got)
		}
		if err := os.WriteFile(name, one.file, 0o600); err != nil {
			t.Fatal(err)
		}
		v.must(t, "POST", "/v1/backups/"+v.line.ID.String()+"/verify", nil)
		if d := damaged(); d != "" {
			t.Errorf("number %d: the good bytes: %s", i, d)
		}
	}
}

// TestSealedPolicy: what the policy of the image wants is kept to, and layers that are sealed are never put together.
func TestSealedPolicy(t *testing.T) {
	v := newVault(t)
	r := recipients(t, 2)
	p := api.DefaultPolicy()
	for _, bad := range [][]string{{"x"}, {r[0], r[0]}, {r[0][:50]}, recipients(t, 32)} {
		p.Backup = &api.BackupPolicy{Manual: true, Recipients: bad}
		if ans := v.send(t, asLocal, "PUT", "/v1/images/golden/policy", p); ans.code() != api.CodeInvalid {
			t.Errorf("%v: %v", bad, ans)
		}
	}
	p.Backup = &api.BackupPolicy{Manual: true, Encrypt: true, Recipients: r[1:]}
	v.must(t, "PUT", "/v1/images/golden/policy", p)
	next := pack(t, v.golden.State, disk(1, 20, 3))
	v.uploadAs(t, v.alice, next)
	if ans := v.send(t, v.alice, "POST", points(v.line), sealPoint(1, next)); ans.code() != api.CodeForbidden {
		t.Errorf("not sealed: %v", ans)
	}
	alone := sealIt(t, next, r[0])
	v.sendSealed(t, alone)
	if ans := v.send(t, v.alice, "POST", points(v.line), sealPoint(1, alone.packed)); ans.code() != api.CodeForbidden {
		t.Errorf("without escrow: %v", ans)
	}
	v.SetLongest(2)
	from := v.golden.State
	for i := range image.Version(5) {
		s := sealIt(t, pack(t, from, disk(1, 30+uint64(i), 3)), r...)
		v.backUpSealed(t, i+1, s)
		from = s.State
	}
	for _, gone := range []string{"/2", "/3"} {
		v.must(t, "DELETE", points(v.line)+gone, nil)
	}
	v.WaitVerified()
	v.clock.advance(synchronizer.UserLayerLife + time.Hour)
	v.KeepHouse()
	v.WaitVerified()
	m := v.manifest(t, 5).Disks[0]
	if len(m.Layers) != 6 {
		t.Errorf("%d layers", len(m.Layers))
	}
	for _, l := range m.Layers {
		if ans := v.send(t, v.alice, "GET", "/v1/layers/"+l.ID.String(), nil); ans.status != 200 || int64(len(ans.body)) != l.Length {
			t.Errorf("layer %s: %v", l.ID.Short(), ans.status)
		}
	}
	if ans := v.send(t, v.alice, "GET", "/v1/layers/"+alone.id(), nil); ans.code() != api.CodeNotFound {
		t.Errorf("what no point has, a day later: %v", ans)
	}
}
