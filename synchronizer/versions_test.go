package synchronizer_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// manifest returns a version's manifest as an endpoint sees it.
func (h *house) manifest(t *testing.T, token, name, v string) *image.Manifest {
	t.Helper()
	a := h.send(t, token, "GET", "/v1/images/"+name+"/versions/"+v+"/manifest", nil)
	if a.status != http.StatusOK {
		t.Fatalf("manifest: %v", a)
	}
	m, err := image.VerifyManifest(a.body, h.SigningKey())
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifest()
}

// TestVersions walks an image through differences, a full disk, a second disk and a disk that goes back to what it was.
func TestVersions(t *testing.T) {
	h := newHouse(t)
	a, b := disk(1, 2), disk(1, 3)
	v1 := h.publish(t, "golden", 1, image.State{}, a)
	v2 := h.publish(t, "golden", 2, v1.State, b)
	v3 := h.publish(t, "golden", 3, v2.State, a) // as version 1
	full := pack(t, image.State{}, b)
	h.store(t, full)
	uuid := device(7).ID
	s := seal(4, full)
	s.Note = "all of it"
	s.Disks[0].VHDUUIDs = []image.UUID{uuid}
	info := into[api.VersionInfo](t, h.must(t, "POST", "/v1/images/golden/versions", s))
	user := pack(t, image.State{}, disk(9))
	h.store(t, user)
	h.must(t, "POST", "/v1/images/golden/versions", api.Seal{Version: 5, Mode: image.Static, Disks: []api.SealDisk{{Role: image.User, Layer: user.name}}})

	paths := map[string][]image.LayerID{
		"1": {v1.name}, "2": {v1.name, v2.name}, "3": {v1.name, v2.name, v3.name}, "4": {full.name}, "5": {full.name},
	}
	for v, want := range paths {
		m := h.manifest(t, asLocal, "golden", v)
		d, ok := m.Disk(image.System)
		if !ok {
			t.Fatalf("version %s has no system disk", v)
		}
		var got []image.LayerID
		for _, l := range d.Layers {
			got = append(got, l.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("path of version %s (-want +got):\n%s", v, diff)
		}
		if err := m.Check(); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
	}
	if m := h.manifest(t, asLocal, "golden", "5"); len(m.Disks) != 2 || m.Mode != image.Static {
		t.Errorf("version 5: %+v", m)
	}

	im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil))
	if len(im.Versions) != 5 || im.Name != "golden" || im.ID != h.manifest(t, asLocal, "golden", "1").ImageID {
		t.Fatalf("described as %+v", im)
	}
	want := api.VersionInfo{Version: 4, Created: h.clock.now(), Note: "all of it", Disks: []api.DiskInfo{{
		Role: image.System, Size: int64(len(b)), State: v2.State.ID(), Layer: full.name, Blocks: full.Index.Len(), Bytes: int64(len(full.file)),
		Full: true, VHDUUIDs: []image.UUID{uuid},
	}}}
	for what, got := range map[string]api.VersionInfo{"answer of the seal": info, "description": im.Versions[3]} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if im.Versions[1].Disks[0].Full || im.Versions[1].Disks[0].Blocks != 1 {
		t.Errorf("version 2: %+v", im.Versions[1])
	}

	files := into[[]api.MediaFile](t, h.must(t, "GET", "/v1/images/golden/versions/3/files", nil))
	if len(files) != 3 {
		t.Fatalf("files %+v", files)
	}
	for i, f := range files {
		if got := read(t, f.Path); int64(len(got)) != f.Length || f.Layer != paths["3"][i] || f.Role != image.System || !strings.HasPrefix(f.Name, "golden-system-") {
			t.Errorf("file %d: %+v", i, f)
		}
	}
}

func TestSealConflicts(t *testing.T) {
	h := newHouse(t)
	v1 := h.publish(t, "golden", 1, image.State{}, disk(1, 2))
	v2 := h.publish(t, "golden", 2, v1.State, disk(1, 3))
	stale := pack(t, v1.State, disk(4, 2))
	next := pack(t, v2.State, disk(4, 3))
	h.store(t, stale)
	h.store(t, next)
	twice := seal(3, next)
	twice.Disks = append(twice.Disks, twice.Disks[0])
	dynamic := seal(3, next)
	dynamic.Mode = image.Dynamic
	elsewhere := seal(3, next)
	elsewhere.Disks[0].Role = image.User
	tests := []struct {
		name, image string
		seal        api.Seal
		want        api.Code
	}{
		{"a version that is there", "golden", seal(2, next), api.CodeConflict},
		{"a version too far", "golden", seal(4, next), api.CodeConflict},
		{"a layer that starts from an older version", "golden", seal(3, stale), api.CodeConflict},
		{"a difference for a disk that is not there", "golden", elsewhere, api.CodeConflict},
		{"a difference as the first version", "silver", seal(1, next), api.CodeConflict},
		{"a first version that is not 1", "silver", seal(2, v1), api.CodeConflict},
		{"another mode", "golden", dynamic, api.CodeConflict},
		{"a disk twice", "golden", twice, api.CodeInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if a := h.send(t, asLocal, "POST", "/v1/images/"+test.image+"/versions", test.seal); a.code() != test.want {
				t.Errorf("%v, want %s", a, test.want)
			}
		})
	}
	if a := h.send(t, asLocal, "GET", "/v1/images/silver", nil); a.code() != api.CodeNotFound {
		t.Errorf("a refused first version left an image: %v", a)
	}

	t.Run("two publishers", func(t *testing.T) {
		var sealing sync.WaitGroup
		answers := make([]answer, 6)
		for i := range answers {
			sealing.Go(func() { answers[i] = h.send(t, asLocal, "POST", "/v1/images/golden/versions", seal(3, next)) })
		}
		sealing.Wait()
		won := 0
		for _, a := range answers {
			if a.status == http.StatusOK {
				won++
			} else if a.code() != api.CodeConflict {
				t.Errorf("%v", a)
			}
		}
		if im := into[api.Image](t, h.must(t, "GET", "/v1/images/golden", nil)); won != 1 || len(im.Versions) != 3 {
			t.Errorf("%d won, there are %d versions", won, len(im.Versions))
		}
	})
}

// TestStatesAreRebuilt: the files of states are a convenience.
func TestStatesAreRebuilt(t *testing.T) {
	h := newHouse(t)
	a, b := disk(1, 2), disk(1, 3)
	v1 := h.publish(t, "golden", 1, image.State{}, a)
	v2 := h.publish(t, "golden", 2, v1.State, b)
	h.publish(t, "golden", 3, v2.State, a) // a circle: version 1 leads to 2 leads to the state of 1
	// The way out of the circle is the last one that is found.
	if err := h.Exec(t.Context(), "UPDATE layers SET rowid = rowid + 1000 WHERE id = ?", v1.id()); err != nil {
		t.Fatal(err)
	}
	states := map[string]image.State{"first": v1.State, "second": v2.State}
	for what, spoil := range map[string]func(t *testing.T, name string){
		"missing":   remove,
		"empty":     func(t *testing.T, name string) { write(t, name, nil) },
		"too large": func(t *testing.T, name string) { truncate(t, name, image.EncodedStateSize(image.MaxDiskSize)+1) },
		"damaged": func(t *testing.T, name string) {
			b := read(t, name)
			b[len(b)-1] ^= 1
			write(t, name, b)
		},
		"another state": func(t *testing.T, name string) {
			b, err := image.State{Size: 512, Blocks: make([]image.Digest, 1)}.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			write(t, name, b)
		},
	} {
		t.Run(what, func(t *testing.T) {
			for _, st := range states {
				spoil(t, h.path(synchronizer.StateFile(st.ID().String())))
			}
			for name, st := range states {
				want, err := st.MarshalBinary()
				if err != nil {
					t.Fatal(err)
				}
				for _, when := range []string{"first", "second"} {
					if got := h.send(t, asLocal, "GET", "/v1/states/"+st.ID().String(), nil); !bytes.Equal(got.body, want) {
						t.Errorf("%s state, %s time: %v", name, when, got)
					}
				}
				if got := read(t, h.path(synchronizer.StateFile(st.ID().String()))); !bytes.Equal(got, want) {
					t.Errorf("%s state was not stored again", name)
				}
			}
		})
	}
	t.Run("at once", func(t *testing.T) {
		for _, st := range states {
			remove(t, h.path(synchronizer.StateFile(st.ID().String())))
		}
		var asking sync.WaitGroup
		for range 8 {
			asking.Go(func() {
				for _, st := range states {
					if got := h.send(t, asLocal, "GET", "/v1/states/"+st.ID().String(), nil); got.status != http.StatusOK {
						t.Errorf("%v", got)
					}
				}
			})
		}
		asking.Wait()
	})
	t.Run("not with its layer", func(t *testing.T) {
		id := v2.State.ID().String()
		remove(t, h.path(synchronizer.StateFile(id)))
		b := read(t, h.path(synchronizer.LayerFile(v2.id())))
		write(t, h.path(synchronizer.LayerFile(v2.id())), b[:len(b)-1])
		if got := h.send(t, asLocal, "GET", "/v1/states/"+id, nil); got.code() != api.CodeInternal {
			t.Errorf("%v", got)
		}
	})
	if got := h.send(t, asLocal, "GET", "/v1/states/"+image.StateID{}.String(), nil); got.code() != api.CodeNotFound {
		t.Errorf("the empty state: %v", got)
	}
}

func truncate(t *testing.T, name string, size int64) {
	t.Helper()
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
}

// TestDeleteImage: what another image needs stays, the rest goes.
func TestDeleteImage(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	shared := h.publish(t, "golden", 1, image.State{}, disk(1, 2))
	h.must(t, "POST", "/v1/images/silver/versions", seal(1, shared))
	mine := h.publish(t, "golden", 2, shared.State, disk(1, 3))
	h.assign(t, "golden", "user:alice", 0)
	h.assign(t, "silver", "user:alice", 0)
	token := h.login(t, "alice", device(1))

	there := func(name string) bool {
		_, err := os.Stat(h.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return err == nil
	}
	h.must(t, "DELETE", "/v1/images/golden", nil)
	if !there(synchronizer.LayerFile(shared.id())) || !there(synchronizer.StateFile(shared.State.ID().String())) {
		t.Error("what the other image needs has gone")
	}
	if there(synchronizer.LayerFile(mine.id())) || there(synchronizer.StateFile(mine.State.ID().String())) {
		t.Error("what nobody needs is still there")
	}
	if a := h.send(t, asLocal, "DELETE", "/v1/images/golden", nil); a.code() != api.CodeNotFound {
		t.Errorf("second deletion: %v", a)
	}
	if a := h.send(t, token, "GET", "/v1/layers/"+mine.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("layer of the deleted image: %v", a)
	}
	if a := h.send(t, token, "GET", "/v1/layers/"+shared.id(), nil); !bytes.Equal(a.body, shared.file) {
		t.Errorf("layer of the other image: %v", a)
	}
	offers := into[[]api.Offer](t, h.send(t, token, "GET", "/v1/offers", nil))
	if len(offers) != 1 || offers[0].Image != "silver" {
		t.Errorf("offers %+v", offers)
	}
	// An image made anew under the name is another one, and nobody's.
	before := offers[0].ImageID
	h.must(t, "DELETE", "/v1/images/silver", nil)
	again := h.publish(t, "silver", 1, image.State{}, disk(1, 2))
	if again.name != shared.name {
		t.Error("the same disk gives another layer")
	}
	if m := h.manifest(t, asLocal, "silver", "1"); m.ImageID == before {
		t.Error("it has the old one's id")
	}
	if offers := into[[]api.Offer](t, h.send(t, token, "GET", "/v1/offers", nil)); len(offers) != 0 {
		t.Errorf("offers %+v", offers)
	}
}

// TestSharedState: two layers lead to one state, and only one of them goes.
func TestSharedState(t *testing.T) {
	h := newHouse(t)
	v1 := h.publish(t, "golden", 1, image.State{}, disk(1, 2))
	v2 := h.publish(t, "golden", 2, v1.State, disk(1, 3))
	h.publish(t, "silver", 1, image.State{}, disk(1, 3))
	h.must(t, "DELETE", "/v1/images/golden", nil)
	if a := h.send(t, asLocal, "GET", "/v1/states/"+v2.State.ID().String(), nil); a.status != http.StatusOK {
		t.Errorf("state that another layer leads to: %v", a)
	}
	if a := h.send(t, asLocal, "GET", "/v1/states/"+v1.State.ID().String(), nil); a.code() != api.CodeNotFound {
		t.Errorf("state that nothing leads to: %v", a)
	}
}
