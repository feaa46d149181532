package synchronizer_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

// open and own are the routes that are not for administrators alone. A route that is to be added here wants a thought.
var (
	open = []string{"GET /v1/server", "POST /v1/login"}
	own  = []string{"DELETE /v1/login", "GET /v1/offers", "GET /v1/images/{image}/versions/{version}/manifest",
		"GET /v1/images/{image}/versions/{version}/layers", "GET /v1/images/{image}/keys", "GET /v1/layers/{layer}",
		"GET /v1/backups", "POST /v1/backups", "GET /v1/backups/{line}", "POST /v1/backups/{line}/points",
		"GET /v1/backups/{line}/points/{point}/manifest", "GET /v1/backups/{line}/points/{point}/layers",
		"POST /v1/uploads/{layer}", "GET /v1/uploads/{layer}", "PATCH /v1/uploads/{layer}", "DELETE /v1/uploads/{layer}"}
	// mine are those of them whose subject is the caller: to others' things they do not lead.
	mine = map[string]int{"GET /v1/offers": 200, "GET /v1/backups": 200, "POST /v1/backups": 400, "POST /v1/uploads/{layer}": 200,
		"GET /v1/uploads/{layer}": 200, "PATCH /v1/uploads/{layer}": 200, "DELETE /v1/uploads/{layer}": 204}
)

func TestRoutesHavePermissions(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range synchronizer.Routes() {
		if seen[r.Pattern] {
			t.Errorf("%s is there twice", r.Pattern)
		}
		seen[r.Pattern] = true
		want := synchronizer.Operator
		switch {
		case slices.Contains(open, r.Pattern):
			want = synchronizer.Anybody
		case slices.Contains(own, r.Pattern):
			want = synchronizer.Member
		}
		if r.Need != want {
			t.Errorf("%s needs permission %d, want %d", r.Pattern, r.Need, want)
		}
		method, _, _ := strings.Cut(r.Pattern, " ")
		if method != http.MethodGet && r.Audit == "" && !strings.Contains(r.Pattern, "/v1/uploads/") {
			t.Errorf("%s changes something and is not in the audit log", r.Pattern)
		}
	}
	for _, p := range append(slices.Clone(open), own...) {
		if !seen[p] {
			t.Errorf("there is no route %s", p)
		}
	}
}

// others is a house with an image that alice has, one that nobody has, and everything else that a route can name.
type others struct {
	*house
	secret packed // the layer of the image that is not alice's
	alice  string // her token
	boss   string // an administrator's token
	fill   *strings.Replacer
}

func newOthers(t *testing.T) *others {
	h := newHouse(t)
	h.user(t, "alice", false)
	h.user(t, "boss", true)
	h.user(t, "mallory", false)
	h.must(t, "PUT", "/v1/groups/staff", nil)
	h.must(t, "PUT", "/v1/groups/staff/members/mallory", nil)
	h.publish(t, "hers", 1, image.State{}, disk(1))
	o := &others{house: h, secret: h.publish(t, "secret", 1, image.State{}, disk(2))}
	h.assign(t, "hers", "user:alice", 0)
	h.assign(t, "secret", "group:staff", 0)
	mallory := h.login(t, "mallory", device(9))
	line := h.openLine(t, mallory, "secret", 7)
	one := pack(t, o.secret.State, disk(5))
	if u := h.uploadAs(t, mallory, one); u.State != api.Stored {
		t.Fatalf("upload: %+v", u)
	}
	into[api.BackupPoint](t, h.send(t, mallory, "POST", points(line), sealPoint(1, one)))
	o.boss, o.alice = h.login(t, "boss", device(2)), h.login(t, "alice", device(1))
	o.fill = strings.NewReplacer("{image}", "secret", "{version}", "1", "{layer}", o.secret.id(), "{state}", o.secret.State.ID().String(),
		"{user}", "mallory", "{group}", "staff", "{device}", device(9).ID.String(),
		"{line}", line.ID.String(), "{point}", "1")
	return o
}

// request returns a route's method and path with the names of things that are there.
func (o *others) request(r synchronizer.Route) (method, path string) {
	method, path, _ = strings.Cut(o.fill.Replace(r.Pattern), " ")
	if strings.HasPrefix(path, "/v1/uploads/") {
		path += "?length=1&offset=0"
	}
	return method, path
}

// everything lists all that an administrator can see.
func (o *others) everything(t *testing.T) map[string]string {
	all := map[string]string{}
	for _, what := range []string{"images", "users", "groups", "assignments", "devices", "backups?all=1"} {
		all[what] = string(o.must(t, "GET", "/v1/"+what, nil).body)
	}
	return all
}

// TestMatrix sends every route as every kind of caller, about things that are not the caller's.
func TestMatrix(t *testing.T) {
	o := newOthers(t)
	before := o.everything(t)
	cases := 0
	for _, r := range synchronizer.Routes() {
		method, path := o.request(r)
		if r.Pattern == "DELETE /v1/login" {
			continue // ends the token that the others need; TestLogout has it
		}
		for _, caller := range []struct{ name, token string }{
			{"nobody", ""}, {"forged token", "dsync_" + strings.Repeat("A", 43)}, {"empty token", " "}, {"user", o.alice},
		} {
			cases++
			a := o.send(t, caller.token, method, path, nil)
			want := http.StatusUnauthorized
			switch {
			case r.Need == synchronizer.Anybody && method == http.MethodGet:
				want = http.StatusOK
			case r.Need == synchronizer.Anybody:
				want = http.StatusBadRequest // no body
			case caller.name == "user" && r.Need == synchronizer.Operator:
				want = http.StatusForbidden
			case caller.name == "user" && mine[r.Pattern] != 0:
				want = mine[r.Pattern]
			case caller.name == "user":
				want = http.StatusNotFound // what is not hers does not exist
			}
			if a.status != want {
				t.Errorf("%s as %s: %v, want status %d", r.Pattern, caller.name, a, want)
			}
			if said := string(a.body); caller.name == "user" && a.status == http.StatusOK &&
				(strings.Contains(said, "secret") || strings.Contains(said, "mallory") || strings.Contains(said, "stored")) {
				t.Errorf("%s tells alice: %s", r.Pattern, said)
			}
			if a.status >= 400 && (a.code() == "" || a.header.Get("Content-Type") != "application/json") {
				t.Errorf("%s as %s: an error without a code: %v", r.Pattern, caller.name, a)
			}
			if hint := a.header.Get("WWW-Authenticate"); (a.status == http.StatusUnauthorized) != (hint != "") {
				t.Errorf("%s as %s: status %d with WWW-Authenticate %q", r.Pattern, caller.name, a.status, hint)
			}
		}
	}
	if cases < 100 {
		t.Errorf("%d cases", cases)
	}
	if diff := cmp.Diff(before, o.everything(t)); diff != "" {
		t.Errorf("somebody changed something (-before +after):\n%s", diff)
	}

	// Administrators pass everywhere, whether what they ask makes sense or not.
	for _, token := range []string{o.boss, asLocal} {
		for _, r := range synchronizer.Routes() {
			method, path := o.request(r)
			if r.Need == synchronizer.Anybody || r.Pattern == "DELETE /v1/login" {
				continue
			}
			if r.Pattern == "POST /v1/backups/{line}/points" {
				continue // not for others
			}
			if a := o.send(t, token, method, path, nil); a.status == http.StatusUnauthorized || a.status == http.StatusForbidden || a.status >= 500 {
				t.Errorf("%s as administrator: %v", r.Pattern, a)
			}
		}
	}
}

func TestUnknownRoutes(t *testing.T) {
	h := newHouse(t)
	for _, r := range []string{"GET /", "GET /v1", "GET /v2/server", "POST /v1/server", "PUT /v1/login", "GET /v1/images/a/b", "TRACE /v1/server"} {
		method, path, _ := strings.Cut(r, " ")
		if a := h.send(t, "", method, path, nil); a.status != http.StatusNotFound || a.code() != api.CodeNotFound {
			t.Errorf("%s: %v", r, a)
		}
	}
}

// TestBadNames sends what no name can be in each place of each path.
func TestBadNames(t *testing.T) {
	v := newVault(t)
	h := v.house
	bad := map[string]string{
		"{image}": "-x", "{version}": "0", "{layer}": strings.Repeat("A", 64), "{state}": "12", "{user}": "%20", "{group}": "a%2Fb", "{device}": "x",
		"{line}": "x", "{point}": "0",
	}
	good := map[string]string{
		"{image}": "x", "{version}": "1", "{layer}": strings.Repeat("a", 64), "{state}": strings.Repeat("a", 64), "{user}": "x", "{group}": "x",
		"{device}": device(1).ID.String(), "{line}": v.line.ID.String(), "{point}": "1",
	}
	cases := 0
	for _, r := range synchronizer.Routes() {
		for name, value := range bad {
			if !strings.Contains(r.Pattern, name) {
				continue
			}
			cases++
			pattern := strings.ReplaceAll(r.Pattern, name, value)
			for n, v := range good {
				pattern = strings.ReplaceAll(pattern, n, v)
			}
			method, path, _ := strings.Cut(pattern, " ")
			if a := h.send(t, asLocal, method, path+"?length=1&offset=0", nil); a.status != http.StatusBadRequest {
				t.Errorf("%s: %v", pattern, a)
			}
		}
	}
	if cases < 15 {
		t.Errorf("%d cases", cases)
	}
}

// TestBodies sends requests with a body that says too much, too little or nothing.
func TestBodies(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	h.publish(t, "golden", 1, image.State{}, disk(1))
	id := strings.Repeat("ab", 32)
	dev := fmt.Sprintf(`{"id":%q,"name":"x"}`, device(1).ID)
	tests := []struct {
		name, method, path, body string
		want                     api.Code
	}{
		{"nothing", "POST", "/v1/users", "", api.CodeInvalid},
		{"no JSON", "POST", "/v1/users", "name=bob", api.CodeInvalid},
		{"unknown field", "POST", "/v1/users", `{"name":"bob","password":"x","root":true}`, api.CodeInvalid},
		{"wrong type", "POST", "/v1/users", `{"name":"bob","password":"x","admin":"yes"}`, api.CodeInvalid},
		{"two values", "POST", "/v1/users", `{"name":"bob","password":"x"}{}`, api.CodeInvalid},
		{"a bracket too many", "POST", "/v1/users", `{"name":"bob","password":"x"}}`, api.CodeInvalid},
		{"empty password", "POST", "/v1/users", `{"name":"bob","password":""}`, api.CodeInvalid},
		{"long password", "POST", "/v1/users", `{"name":"bob","password":"` + strings.Repeat("x", api.MaxPassword+1) + `"}`, api.CodeInvalid},
		{"bad name", "POST", "/v1/users", `{"name":"bob\n","password":"x"}`, api.CodeInvalid},
		{"long name", "POST", "/v1/users", `{"name":"` + strings.Repeat("b", api.MaxName+1) + `","password":"x"}`, api.CodeInvalid},
		{"a user that is there", "POST", "/v1/users", `{"name":"alice","password":"x"}`, api.CodeConflict},
		{"password of nobody", "PUT", "/v1/users/bob/password", `{"password":"x"}`, api.CodeNotFound},
		{"body over the limit", "POST", "/v1/users", `{"name":"` + strings.Repeat("b", api.MaxJSON) + `"}`, api.CodeTooLarge},
		{"login without a device", "POST", "/v1/login", `{"user":"alice","password":"x"}`, api.CodeInvalid},
		{"login with a control character", "POST", "/v1/login", `{"user":"alice","password":"x","device":{"id":"` + device(1).ID.String() + `","name":"a\u001b[2J"}}`, api.CodeInvalid},
		{"login with a long password", "POST", "/v1/login", `{"user":"alice","password":"` + strings.Repeat("x", api.MaxPassword+1) + `","device":` + dev + `}`, api.CodeInvalid},
		{"login as what nobody is called", "POST", "/v1/login", `{"user":"../alice","password":"x","device":` + dev + `}`, api.CodeBadLogin},
		{"assignment to nobody", "PUT", "/v1/assignments", `{"image":"golden"}`, api.CodeInvalid},
		{"assignment to null", "PUT", "/v1/assignments", `{"image":"golden","to":null}`, api.CodeInvalid},
		{"assignment to a device", "PUT", "/v1/assignments", `{"image":"golden","to":"device:x"}`, api.CodeInvalid},
		{"assignment to an unknown user", "PUT", "/v1/assignments", `{"image":"golden","to":"user:bob"}`, api.CodeNotFound},
		{"assignment to an unknown group", "PUT", "/v1/assignments", `{"image":"golden","to":"group:bobs"}`, api.CodeNotFound},
		{"assignment of an unknown image", "PUT", "/v1/assignments", `{"image":"silver","to":"user:alice"}`, api.CodeNotFound},
		{"assignment of a bad name", "PUT", "/v1/assignments", `{"image":"../golden","to":"user:alice"}`, api.CodeInvalid},
		{"assignment of an unknown version", "PUT", "/v1/assignments", `{"image":"golden","to":"user:alice","version":2}`, api.CodeNotFound},
		{"end of no assignment", "DELETE", "/v1/assignments", `{"image":"golden","to":"user:alice"}`, api.CodeNotFound},
		{"member of no group", "PUT", "/v1/groups/none/members/alice", "", api.CodeNotFound},
		{"version 0", "POST", "/v1/images/silver/versions", `{"version":0,"disks":[{"role":"system","layer":"` + id + `"}]}`, api.CodeInvalid},
		{"no disks", "POST", "/v1/images/silver/versions", `{"version":1,"disks":[]}`, api.CodeInvalid},
		{"unknown role", "POST", "/v1/images/silver/versions", `{"version":1,"disks":[{"role":"swap","layer":"` + id + `"}]}`, api.CodeInvalid},
		{"long note", "POST", "/v1/images/silver/versions", `{"version":1,"note":"` + strings.Repeat("x", api.MaxNote+1) + `","disks":[{"role":"system","layer":"` + id + `"}]}`, api.CodeInvalid},
		{"unknown layer", "POST", "/v1/images/silver/versions", `{"version":1,"disks":[{"role":"system","layer":"` + id + `"}]}`, api.CodeNotFound},
		{"unknown mode", "POST", "/v1/images/silver/versions", `{"version":1,"mode":"odd","disks":[{"role":"system","layer":"` + id + `"}]}`, api.CodeInvalid},
		{"upload without a length", "POST", "/v1/uploads/" + id, "", api.CodeInvalid},
		{"upload of nothing", "POST", "/v1/uploads/" + id + "?length=0", "", api.CodeInvalid},
		{"upload of too much", "POST", "/v1/uploads/" + id + "?length=9223372036854775807", "", api.CodeInvalid},
		{"upload that was not begun", "PATCH", "/v1/uploads/" + id + "?offset=0", "x", api.CodeNotFound},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if a := h.send(t, asLocal, test.method, test.path, test.body); a.code() != test.want {
				t.Errorf("%v, want %s", a, test.want)
			}
		})
	}
	images := into[[]api.Image](t, h.must(t, "GET", "/v1/images", nil))
	if len(images) != 1 || len(images[0].Versions) != 1 {
		t.Errorf("images %+v", images)
	}
}
