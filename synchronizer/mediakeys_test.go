package synchronizer_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"disksync/api"
	"disksync/image"
)

// TestMediaKeys hands the keys of an image out to whom it is assigned, whatever version, and to nobody else.
func TestMediaKeys(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	h.user(t, "mallory", false)
	h.publish(t, "win7", 1, image.State{}, disk(1))
	h.publish(t, "other", 1, image.State{}, disk(2))
	h.assign(t, "win7", "user:alice", 1)
	h.assign(t, "other", "user:mallory", 0)
	alice, mallory := h.login(t, "alice", device(1)), h.login(t, "mallory", device(2))
	keys := func(token string) []api.MediaKey {
		t.Helper()
		var out []api.MediaKey
		a := h.send(t, token, "GET", "/v1/images/win7/keys", nil)
		if a.status != http.StatusOK || json.Unmarshal(a.body, &out) != nil {
			t.Fatalf("%v", a)
		}
		return out
	}
	if got := keys(alice); len(got) != 0 {
		t.Errorf("keys before there are any: %v", got)
	}
	var made []api.MediaKey
	for range 2 {
		var k api.MediaKey
		if err := json.Unmarshal(h.must(t, "POST", "/v1/images/win7/keys", nil).body, &k); err != nil || k.ID != k.Key.ID() || k.Key == (image.MediaKey{}) {
			t.Fatalf("key %v, %v", k.ID, err)
		}
		made = append([]api.MediaKey{k}, made...)
	}
	h.restart(t)
	if got := keys(alice); len(got) != 2 || got[0] != made[0] || got[1] != made[1] {
		t.Errorf("%d keys, not the two that were made, newest first", len(got))
	}
	offer := string(h.send(t, alice, "GET", "/v1/offers", nil).body)
	if !strings.Contains(offer, `"media_key":"`+made[0].ID.String()+`"`) {
		t.Errorf("the offer does not name the key: %s", offer)
	}
	for _, a := range []answer{h.send(t, mallory, "GET", "/v1/images/win7/keys", nil), h.send(t, mallory, "GET", "/v1/images/none/keys", nil)} {
		if a.status != http.StatusNotFound || strings.TrimSpace(strings.Replace(string(a.body), "none", "win7", 1)) != `{"code":"not-found","message":"there is no image win7"}` {
			t.Errorf("mallory: %v", a)
		}
	}
	for _, what := range []string{"/v1/audit", "/v1/images/win7"} {
		if text, _ := made[0].Key.MarshalText(); strings.Contains(string(h.must(t, "GET", what, nil).body), string(text)) {
			t.Errorf("%s has the key", what)
		}
	}
	h.must(t, "DELETE", "/v1/images/win7", nil)
	if a := h.send(t, alice, "GET", "/v1/images/win7/keys", nil); a.status != http.StatusNotFound {
		t.Errorf("of a deleted image: %v", a)
	}
}
