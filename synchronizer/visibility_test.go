package synchronizer_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
)

// gallery is a house with the image golden in three versions and users in groups.
type gallery struct {
	*house
	layers []packed
}

func newGallery(t *testing.T) *gallery {
	h := newHouse(t)
	g := &gallery{house: h}
	from := image.State{}
	for v := range image.Version(3) {
		p := h.publish(t, "golden", v+1, from, disk(uint64(v)+1, 7))
		g.layers, from = append(g.layers, p), p.State
	}
	h.publish(t, "silver", 1, image.State{}, disk(8))
	for _, user := range []string{"alice", "bob"} {
		h.user(t, user, false)
	}
	for _, group := range []string{"staff", "testers"} {
		h.must(t, "PUT", "/v1/groups/"+group, nil)
		h.must(t, "PUT", "/v1/groups/"+group+"/members/alice", nil)
	}
	return g
}

// TestAssignments goes through all ways in which assignments meet.
func TestAssignments(t *testing.T) {
	type assignment struct {
		to string
		v  image.Version
	}
	tests := []struct {
		name   string
		give   []assignment
		want   image.Version // 0: nothing
		pinned bool
	}{
		{name: "nothing"},
		{name: "newest", give: []assignment{{"user:alice", 0}}, want: 3},
		{name: "pinned", give: []assignment{{"user:alice", 2}}, want: 2, pinned: true},
		{name: "pinned to the newest", give: []assignment{{"user:alice", 3}}, want: 3, pinned: true},
		{name: "somebody else's", give: []assignment{{"user:bob", 0}}},
		{name: "group", give: []assignment{{"group:staff", 0}}, want: 3},
		{name: "group pinned", give: []assignment{{"group:staff", 1}}, want: 1, pinned: true},
		{name: "own before group", give: []assignment{{"group:staff", 0}, {"user:alice", 1}}, want: 1, pinned: true},
		{name: "own before group, the other way", give: []assignment{{"user:alice", 0}, {"group:staff", 1}}, want: 3},
		{name: "highest of two groups", give: []assignment{{"group:staff", 1}, {"group:testers", 2}}, want: 2, pinned: true},
		{name: "newest of two groups", give: []assignment{{"group:staff", 0}, {"group:testers", 2}}, want: 3},
		{name: "two groups with the same", give: []assignment{{"group:staff", 3}, {"group:testers", 0}}, want: 3},
		{name: "two groups with the same, the other way", give: []assignment{{"group:staff", 0}, {"group:testers", 3}}, want: 3},
	}
	g := newGallery(t)
	alice, bob := g.login(t, "alice", device(1)), g.login(t, "bob", device(2))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, a := range test.give {
				g.assign(t, "golden", a.to, a.v)
			}
			g.check(t, alice, test.want, test.pinned)
			if test.name != "somebody else's" {
				g.check(t, bob, 0, false)
			}
			for _, a := range into[[]api.Assignment](t, g.must(t, "GET", "/v1/assignments", nil)) {
				g.must(t, "DELETE", "/v1/assignments", a)
			}
			g.check(t, alice, 0, false)
		})
	}
	t.Run("a new version", func(t *testing.T) {
		g.assign(t, "golden", "user:alice", 0)
		g.assign(t, "golden", "user:bob", 3)
		g.layers = append(g.layers, g.publish(t, "golden", 4, g.layers[2].State, disk(4, 7)))
		g.check(t, alice, 4, false)
		g.check(t, bob, 3, true)
		g.assign(t, "golden", "user:bob", 4) // an assignment is changed by making it again
		g.check(t, bob, 4, true)
	})
	t.Run("no member any more", func(t *testing.T) {
		g.must(t, "DELETE", "/v1/assignments", map[string]string{"image": "golden", "to": "user:alice"})
		g.assign(t, "golden", "group:staff", 0)
		g.check(t, alice, 4, false)
		g.must(t, "DELETE", "/v1/groups/staff/members/alice", nil)
		g.check(t, alice, 0, false)
		g.must(t, "PUT", "/v1/groups/staff/members/alice", nil)
		g.must(t, "DELETE", "/v1/groups/staff", nil)
		g.must(t, "PUT", "/v1/groups/staff", nil)
		g.check(t, alice, 0, false)
	})
	t.Run("a user made anew", func(t *testing.T) {
		g.must(t, "DELETE", "/v1/users/bob", nil)
		g.user(t, "bob", false)
		g.check(t, g.login(t, "bob", device(2)), 0, false)
	})
}

// check compares all that a user can get of golden with what the user should: v, and others only when it is not pinned.
func (g *gallery) check(t *testing.T, token string, v image.Version, pinned bool) {
	t.Helper()
	var want []api.Offer
	newest := image.Version(len(g.layers))
	if v != 0 {
		m := g.house.manifest(t, asLocal, "golden", v.String())
		want = []api.Offer{{Image: "golden", ImageID: m.ImageID, Version: v, Pinned: pinned, Newest: newest, Mode: image.Static,
			Size: m.Size(), Created: m.Created}}
	}
	got := into[[]api.Offer](t, g.send(t, token, "GET", "/v1/offers", nil))
	if diff := cmp.Diff(append([]api.Offer{}, want...), got); diff != "" {
		t.Errorf("offers (-want +got):\n%s", diff)
	}
	for i := range newest {
		other := i + 1
		a := g.send(t, token, "GET", "/v1/images/golden/versions/"+other.String()+"/manifest", nil)
		status := http.StatusOK
		switch {
		case v == 0:
			status = http.StatusNotFound
		case pinned && other != v:
			status = http.StatusForbidden
		}
		if a.status != status {
			t.Errorf("manifest of version %d: %v, want %d", other, a, status)
		}
		// A version's path begins at the first, so the layers of all versions below come with it.
		status = http.StatusOK
		if v == 0 || pinned && other > v {
			status = http.StatusNotFound
		}
		if a := g.send(t, token, "HEAD", "/v1/layers/"+g.layers[i].id(), nil); a.status != status {
			t.Errorf("layer of version %d: %v, want %d", other, a, status)
		}
	}
	if a := g.send(t, token, "GET", "/v1/images/golden/versions/"+strconv.Itoa(len(g.layers)+1)+"/manifest", nil); a.status < 400 {
		t.Errorf("a version that is not there: %v", a)
	}
	// What is there and not the user's looks exactly like what is not there.
	secret := g.send(t, token, "GET", "/v1/images/silver/versions/1/manifest", nil)
	nothing := g.send(t, token, "GET", "/v1/images/nickel/versions/1/manifest", nil)
	if secret.status != nothing.status || len(secret.body) != len(nothing.body) {
		t.Errorf("an image of others gives %v, one that is not there %v", secret, nothing)
	}
}
