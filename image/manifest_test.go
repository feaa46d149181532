package image_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/image"
)

// key returns a signing key that is the same in every run.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) image.PublicKey {
	return image.PublicKey(k.Public().(ed25519.PublicKey))
}

// manifest returns one of two disks, the first of which three layers lead to.
func manifest() *image.Manifest {
	ref := func(id, from, to byte) image.LayerRef {
		r := image.LayerRef{ID: image.LayerID{id}, Length: 1000, IndexOffset: 700, IndexLength: 236}
		if from != 0 {
			r.From = image.StateID{from}
		}
		r.To = image.StateID{to}
		return r
	}
	m := &image.Manifest{
		Format: 1, ImageID: image.UUID{1}, Image: "golden", Version: 3, Created: time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC),
		Mode: image.Dynamic, Note: "patches <of> March & April \u2028 \x00",
		Disks: []image.Disk{
			{Role: image.System, Size: 64 << 20, State: image.StateID{13}, Layers: []image.LayerRef{ref(1, 0, 11), ref(2, 11, 12), ref(3, 12, 13)}},
			{Role: image.User, Size: 1 << 20, State: image.StateID{21}, Layers: []image.LayerRef{ref(4, 0, 21)}},
		},
	}
	m.Disks[0].Layers[2].VHDUUIDs = []image.UUID{{9}, {8}}
	return m
}

func sign(t testing.TB, m *image.Manifest, k ed25519.PrivateKey) []byte {
	t.Helper()
	env, err := image.SignManifest(m, k)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// envelope is the signed form, for tests that make what SignManifest would not.
type envelope struct {
	Type       string      `json:"type"`
	Payload    []byte      `json:"payload"`
	Signatures []signature `json:"signatures"`
}

type signature struct {
	Key string `json:"key"`
	Sig []byte `json:"sig"`
}

func open(t testing.TB, env []byte) envelope {
	t.Helper()
	var e envelope
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e envelope) marshal(t testing.TB) []byte {
	t.Helper()
	b, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sealed returns a payload in an envelope that is signed as it has to be, whatever the payload is.
func sealed(t testing.TB, payload []byte, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	e := envelope{Type: "disksync manifest 1", Payload: payload, Signatures: []signature{}}
	for _, k := range keys {
		e.Signatures = append(e.Signatures, signature{public(k).Name(), ed25519.Sign(k, append([]byte("disksync manifest 1\n"), payload...))})
	}
	return e.marshal(t)
}

func TestSignAndVerify(t *testing.T) {
	m, k := manifest(), key(1)
	env := sign(t, m, k)
	v, err := image.VerifyManifest(env, public(key(2)), public(k))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, v.Manifest()); diff != "" {
		t.Errorf("(-signed +verified):\n%s", diff)
	}
	if v.IsZero() || !bytes.Equal(v.Envelope(), env) {
		t.Error("the envelope is lost")
	}
	if again := sign(t, v.Manifest(), k); !bytes.Equal(again, env) {
		t.Error("signed again it is another")
	}
	if b := sealed(t, open(t, env).Payload, k); !bytes.Equal(b, env) {
		t.Error("the form is not the one that is documented")
	}
	if d, ok := v.Manifest().Disk(image.User); !ok || d.Size != 1<<20 {
		t.Errorf("the user disk: %+v, %v", d, ok)
	}
	if d, ok := v.Manifest().Disk(image.Application); ok {
		t.Errorf("there is no application disk, and yet: %+v", d)
	}
	if n := v.Manifest().Size(); n != 65<<20 {
		t.Errorf("size %d", n)
	}
	if !(image.Verified{}).IsZero() || (image.Verified{}).Manifest() != nil {
		t.Error("the zero value holds something")
	}
}

func TestVerifyRefuses(t *testing.T) {
	k, stranger := key(1), key(2)
	env := sign(t, manifest(), k)
	payload := open(t, env).Payload
	edit := func(change func(e *envelope)) []byte {
		e := open(t, env)
		change(&e)
		return e.marshal(t)
	}
	replace := func(in []byte, old, with string) []byte {
		t.Helper()
		if bytes.Count(in, []byte(old)) != 1 {
			t.Fatalf("%q is there %d times", old, bytes.Count(in, []byte(old)))
		}
		return bytes.Replace(in, []byte(old), []byte(with), 1)
	}
	// signed has the trusted key sign a changed payload.
	signed := func(old, with string) []byte { return sealed(t, replace(payload, old, with), k) }
	tests := []struct {
		name string
		env  []byte
		want error
	}{
		// Whoever brings it may have changed it.
		{"payload changed", edit(func(e *envelope) { e.Payload = replace(e.Payload, `"version":3`, `"version":4`) }), image.ErrUntrusted},
		{"a blank more in the payload", edit(func(e *envelope) { e.Payload = append(e.Payload, ' ') }), image.ErrUntrusted},
		{"no payload", edit(func(e *envelope) { e.Payload = nil }), image.ErrUntrusted},
		{"signature changed", edit(func(e *envelope) { e.Signatures[0].Sig[5] ^= 1 }), image.ErrUntrusted},
		{"signature cut", edit(func(e *envelope) { e.Signatures[0].Sig = e.Signatures[0].Sig[:63] }), image.ErrUntrusted},
		{"signature empty", edit(func(e *envelope) { e.Signatures[0].Sig = nil }), image.ErrUntrusted},
		{"no signature", edit(func(e *envelope) { e.Signatures = []signature{} }), image.ErrUntrusted},
		{"null signatures", edit(func(e *envelope) { e.Signatures = nil }), image.ErrUntrusted},
		{"a stranger's", sign(t, manifest(), stranger), image.ErrUntrusted},
		{"a stranger's under our name", edit(func(e *envelope) { e.Signatures[0].Sig = ed25519.Sign(stranger, e.Payload) }), image.ErrUntrusted},
		{"ours under a stranger's name", edit(func(e *envelope) { e.Signatures[0].Key = public(stranger).Name() }), image.ErrUntrusted},
		{"good and wrong", edit(func(e *envelope) {
			e.Signatures = append(e.Signatures, signature{e.Signatures[0].Key, make([]byte, 64)})
		}), image.ErrUntrusted},
		{"signed as something else", edit(func(e *envelope) { e.Signatures[0].Sig = ed25519.Sign(k, e.Payload) }), image.ErrUntrusted},
		// The envelope has one form.
		{"another type", edit(func(e *envelope) { e.Type = "disksync manifest 2" }), image.ErrManifest},
		{"no type", edit(func(e *envelope) { e.Type = "" }), image.ErrManifest},
		{"empty", nil, image.ErrManifest},
		{"null", []byte("null"), image.ErrManifest},
		{"a list", []byte("[]"), image.ErrManifest},
		{"cut", env[:len(env)-1], image.ErrManifest},
		{"something behind", append(bytes.Clone(env), "x"...), image.ErrManifest},
		{"a line end behind", append(bytes.Clone(env), '\n'), image.ErrManifest},
		{"twice", append(bytes.Clone(env), env...), image.ErrManifest},
		{"a blank before", append([]byte(" "), env...), image.ErrManifest},
		{"on one line", func() []byte {
			var b bytes.Buffer
			if err := json.Compact(&b, env); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		}(), image.ErrManifest},
		{"a field more", replace(env, `{`+"\n "+`"type"`, `{`+"\n "+`"x": 1,`+"\n "+`"type"`), image.ErrManifest},
		{"a field twice", replace(env, `{`+"\n "+`"type"`, `{`+"\n "+`"type": "disksync manifest 1",`+"\n "+`"type"`), image.ErrManifest},
		{"another case", replace(env, `"type"`, `"Type"`), image.ErrManifest},
		{"base64 with a line end", replace(env, `"payload": "`, `"payload": "\n`), image.ErrManifest},
		{"too long", bytes.Repeat([]byte(" "), image.MaxEnvelopeSize+1), image.ErrManifest},
		// What is signed may make no sense all the same.
		{"not JSON", sealed(t, []byte("x"), k), image.ErrManifest},
		{"nothing", sealed(t, nil, k), image.ErrManifest},
		{"null manifest", sealed(t, []byte("null"), k), image.ErrManifest},
		{"an unknown field", signed(`"format":1`, `"format":1,"expires":"never"`), image.ErrManifest},
		{"an unknown field of a disk", signed(`"size":1048576`, `"size":1048576,"x":0`), image.ErrManifest},
		{"something behind the manifest", sealed(t, append(bytes.Clone(payload), "{}"...), k), image.ErrManifest},
		{"another format", signed(`"format":1`, `"format":2`), image.ErrManifest},
		{"version 0", signed(`"version":3`, `"version":0`), image.ErrManifest},
		{"a negative version", signed(`"version":3`, `"version":-1`), image.ErrManifest},
		{"a version too many", signed(`"version":3`, `"version":4294967296`), image.ErrManifest},
		{"version and a half", signed(`"version":3`, `"version":3.5`), image.ErrManifest},
		{"a bad name", signed(`"image":"golden"`, `"image":"../golden"`), image.ErrManifest},
		{"an unknown mode", signed(`"mode":"dynamic"`, `"mode":"other"`), image.ErrManifest},
		{"an unknown role", signed(`"role":"user"`, `"role":"swap"`), image.ErrManifest},
		{"a role twice", signed(`"role":"user"`, `"role":"system"`), image.ErrManifest},
		{"no sectors", signed(`"size":1048576`, `"size":1048577`), image.ErrManifest},
		{"a number for ever", signed(`"size":1048576`, `"size":1e400`), image.ErrManifest},
		{"no time", signed(`"created":"2026-03-01T12:00:00.000005Z"`, `"created":"yesterday"`), image.ErrManifest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v, err := image.VerifyManifest(test.env, public(k))
			if !errors.Is(err, test.want) || !v.IsZero() || v.Manifest() != nil {
				t.Errorf("%+v, %v", v.Manifest(), err)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	if _, err := image.VerifyManifest(env); !errors.Is(err, image.ErrUntrusted) {
		t.Errorf("nobody is trusted: %v", err)
	}
	// A signature that we cannot judge does no harm.
	if _, err := image.VerifyManifest(sealed(t, payload, stranger, k), public(k)); err != nil {
		t.Errorf("a second signature: %v", err)
	}
	if _, err := image.VerifyManifest(sealed(t, payload, stranger, k), public(k), public(stranger)); err != nil {
		t.Errorf("two good signatures: %v", err)
	}
}

// TestEveryByte changes a bit of each byte of an envelope. None of it is the same manifest to anybody.
func TestEveryByte(t *testing.T) {
	k := key(1)
	m := manifest()
	m.Disks = m.Disks[1:]
	env := sign(t, m, k)
	for i := range env {
		b := bytes.Clone(env)
		b[i] ^= 1 << (i % 8)
		if v, err := image.VerifyManifest(b, public(k)); err == nil || !v.IsZero() {
			t.Fatalf("byte %d, %q: accepted", i, b[max(i-10, 0):i+1])
		}
	}
}

func TestManifestCheck(t *testing.T) {
	if err := manifest().Check(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(m *image.Manifest){
		"no format":                 func(m *image.Manifest) { m.Format = 0 },
		"no image id":               func(m *image.Manifest) { m.ImageID = image.UUID{} },
		"no version":                func(m *image.Manifest) { m.Version = 0 },
		"no time":                   func(m *image.Manifest) { m.Created = time.Time{} },
		"no mode":                   func(m *image.Manifest) { m.Mode = "" },
		"no name":                   func(m *image.Manifest) { m.Image = "" },
		"a name that is a path":     func(m *image.Manifest) { m.Image = "a/b" },
		"no disks":                  func(m *image.Manifest) { m.Disks = nil },
		"no role":                   func(m *image.Manifest) { m.Disks[0].Role = "" },
		"a role twice":              func(m *image.Manifest) { m.Disks[1].Role = image.System },
		"no size":                   func(m *image.Manifest) { m.Disks[0].Size = 0 },
		"too large":                 func(m *image.Manifest) { m.Disks[0].Size = image.MaxDiskSize + 512 },
		"no state":                  func(m *image.Manifest) { m.Disks[0].State = image.StateID{} },
		"another state":             func(m *image.Manifest) { m.Disks[0].State = image.StateID{12} },
		"no layers":                 func(m *image.Manifest) { m.Disks[0].Layers = nil },
		"the first layer missing":   func(m *image.Manifest) { m.Disks[0].Layers = m.Disks[0].Layers[1:] },
		"the last layer missing":    func(m *image.Manifest) { m.Disks[0].Layers = m.Disks[0].Layers[:2] },
		"a gap":                     func(m *image.Manifest) { m.Disks[0].Layers[1].From = image.StateID{77} },
		"a layer to nothing":        func(m *image.Manifest) { m.Disks[0].Layers[1].To = image.StateID{} },
		"a layer to itself":         func(m *image.Manifest) { m.Disks[0].Layers[1].To = m.Disks[0].Layers[1].From },
		"no length":                 func(m *image.Manifest) { m.Disks[0].Layers[1].Length = 0 },
		"a negative length":         func(m *image.Manifest) { m.Disks[0].Layers[1].Length = -1 },
		"no index":                  func(m *image.Manifest) { m.Disks[0].Layers[1].IndexLength = 0 },
		"an index before the start": func(m *image.Manifest) { m.Disks[0].Layers[1].IndexOffset = -1 },
		"an index behind the end":   func(m *image.Manifest) { m.Disks[0].Layers[1].IndexOffset = 1001 },
		"an index over the end":     func(m *image.Manifest) { m.Disks[0].Layers[1].IndexLength = 301 },
		"a sum that wraps": func(m *image.Manifest) {
			m.Disks[0].Layers[1].IndexOffset, m.Disks[0].Layers[1].IndexLength = 999, 1<<63-1
		},
		"too many layers": func(m *image.Manifest) {
			d := &m.Disks[1]
			l := d.Layers[0]
			d.Layers = nil
			for i := range image.MaxPathLayers + 1 {
				l.To = image.StateID{1, byte(i), byte(i >> 8)}
				d.Layers = append(d.Layers, l)
				l.From = l.To
			}
			d.State = l.To
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			m := manifest()
			change(m)
			if err := m.Check(); !errors.Is(err, image.ErrManifest) {
				t.Errorf("%v", err)
			}
			if env, err := image.SignManifest(m, key(1)); !errors.Is(err, image.ErrManifest) || env != nil {
				t.Errorf("it was signed: %v", err)
			}
		})
	}
}

// TestUntil: a part of what was verified is a path that ends earlier, and says nothing else than the whole.
func TestUntil(t *testing.T) {
	k := key(1)
	v, err := image.VerifyManifest(sign(t, manifest(), k), public(k))
	if err != nil {
		t.Fatal(err)
	}
	whole := manifest()
	for i, l := range whole.Disks[0].Layers {
		part, ok := v.Until(l.ID)
		if !ok || part.IsZero() || !bytes.Equal(part.Envelope(), v.Envelope()) {
			t.Fatalf("layer %d: %v", i, ok)
		}
		want := manifest()
		want.Disks = want.Disks[:1]
		d := &want.Disks[0]
		d.Layers, d.State = d.Layers[:i+1], l.To
		if i < 2 {
			d.Size = 0
		}
		if diff := cmp.Diff(want, part.Manifest()); diff != "" {
			t.Errorf("layer %d (-want +got):\n%s", i, diff)
		}
	}
	part, ok := v.Until(whole.Disks[1].Layers[0].ID)
	if d := part.Manifest().Disks; !ok || len(d) != 1 || d[0].Role != image.User || d[0].Size != 1<<20 {
		t.Errorf("the other disk: %+v", d)
	}
	if _, ok := v.Until(image.LayerID{99}); ok {
		t.Error("found a layer that is not there")
	}
	if _, ok := (image.Verified{}).Until(whole.Disks[0].Layers[0].ID); ok {
		t.Error("nothing has a layer")
	}
	if diff := cmp.Diff(whole, v.Manifest()); diff != "" {
		t.Errorf("the whole was changed (-before +after):\n%s", diff)
	}
}

func TestPublicKey(t *testing.T) {
	k := public(key(1))
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back image.PublicKey
	if err := back.UnmarshalText(text); err != nil || back != k || len(k.Name()) != 16 {
		t.Errorf("%s, %v, name %s", text, err, k.Name())
	}
	loose := bytes.Clone(text)
	loose[len(loose)-2]++ // bits behind the end
	for _, bad := range [][]byte{
		nil, text[:len(text)-1], append(bytes.Clone(text), '='), loose, []byte(base64.StdEncoding.EncodeToString(make([]byte, 33))),
		[]byte(base64.StdEncoding.EncodeToString(make([]byte, 31))), []byte(strings.Repeat("-", 44)),
	} {
		if err := back.UnmarshalText(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, good := range []string{"a", "A", "0", "golden", "Golden-1.2_x", "a..", long} {
		if err := image.CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "-x", "_x", ".x", "a/b", `a\b`, "a b", "a\n", "\na", "a\x00", "a:b", "zo\u00eb", "\u0430", long + "a", "a*", "a?", "%2e", "a\x1b[2J",
	} {
		if err := image.CheckName(bad); err == nil {
			t.Errorf("%q is a name", bad)
		}
	}
	if err := image.CheckName(strings.Repeat("x/", 1<<20)); err == nil || len(err.Error()) > 300 {
		t.Errorf("hostile text in the error: %d bytes", len(err.Error()))
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]image.Version{"1": 1, "42": 42, "4294967295": 4294967295} {
		if v, err := image.ParseVersion(text); err != nil || v != want || v.String() != text {
			t.Errorf("%q: %v, %v", text, v, err)
		}
	}
	for _, bad := range []string{"", "0", "00", "01", "-1", "+1", " 1", "1 ", "1.0", "0x1", "1_0", "4294967296", "v1", "\u0661"} {
		if v, err := image.ParseVersion(bad); err == nil {
			t.Errorf("%q was read as %v", bad, v)
		}
	}
}

func TestRolesAndModes(t *testing.T) {
	for _, r := range image.Roles() {
		var back image.Role
		if err := back.UnmarshalText([]byte(r)); err != nil || back != r {
			t.Errorf("%s: %v, %v", r, back, err)
		}
	}
	for _, m := range []image.Mode{image.Static, image.StaticProfile, image.Dynamic} {
		var back image.Mode
		if err := back.UnmarshalText([]byte(m)); err != nil || back != m {
			t.Errorf("%s: %v, %v", m, back, err)
		}
	}
	for _, bad := range []string{"", "System", "system ", "swap"} {
		var r image.Role
		var m image.Mode
		if r.UnmarshalText([]byte(bad)) == nil || m.UnmarshalText([]byte(bad)) == nil || r != "" || m != "" {
			t.Errorf("%q was read as %q, %q", bad, r, m)
		}
	}
}

// FuzzVerifyManifest: what is accepted is signed, makes sense and has one form.
func FuzzVerifyManifest(f *testing.F) {
	k := key(1)
	env := sign(f, manifest(), k)
	if _, err := image.VerifyManifest(env, public(k)); err != nil {
		f.Fatalf("no seed is accepted: %v", err)
	}
	f.Add(env)
	f.Add(sign(f, manifest(), key(2)))
	f.Add(open(f, env).Payload)
	f.Add([]byte(`{"type":"disksync manifest 1","payload":"","signatures":[]}`))
	f.Add([]byte(fmt.Sprintf(`{"type":"disksync manifest 1","payload":"e30=","signatures":[{"key":%q,"sig":""}]}`, public(k).Name())))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := image.VerifyManifest(b, public(k))
		checkVerdict(t, b, v, err)
		// Nobody can sign what a fuzzer finds, so it is also tried as the payload of a good signature.
		env := sealed(t, b, k)
		v, err = image.VerifyManifest(env, public(k))
		checkVerdict(t, env, v, err)
		if err != nil {
			return
		}
		again := sign(t, v.Manifest(), k)
		v2, err := image.VerifyManifest(again, public(k))
		if err != nil {
			t.Fatalf("what was accepted is not when signed again: %v", err)
		}
		if twice := sign(t, v2.Manifest(), k); !bytes.Equal(twice, again) {
			t.Error("signed a third time it is another")
		}
	})
}

func checkVerdict(t *testing.T, env []byte, v image.Verified, err error) {
	t.Helper()
	switch {
	case err != nil && (!v.IsZero() || !errors.Is(err, image.ErrManifest) && !errors.Is(err, image.ErrUntrusted)):
		t.Errorf("%+v, %v", v.Manifest(), err)
	case err == nil && (v.IsZero() || v.Manifest().Check() != nil || !bytes.Equal(v.Envelope(), env)):
		t.Errorf("accepted %+v", v.Manifest())
	case err == nil && !bytes.Equal(open(t, env).marshal(t), env):
		t.Error("accepted in another form")
	}
}
