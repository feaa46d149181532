package syncclient_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
)

// lists is a Synchronizer that has five lines with two points each, and no list for more than some points.
type lists struct {
	bound int // of a list of several lines
	stuck bool
	asked []string
}

func (l *lists) lines(points int) []api.BackupLine {
	out := []api.BackupLine{}
	for i := range byte(5) {
		b := api.BackupLine{ID: image.RandomUUID([16]byte{i + 1}), User: "alice", Name: fmt.Sprintf("vm%d", 5-i), Mode: image.Static, Count: 2}
		for p := range 2 {
			b.Points = append(b.Points, api.BackupPoint{Point: image.Version(p + 1), Consistency: image.Stopped})
		}
		b.Points = b.Points[2-points:]
		out = append(out, b)
	}
	return out
}

func (l *lists) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.asked = append(l.asked, strings.TrimPrefix(r.URL.RequestURI(), "/v1/backups"))
	var out any
	q := r.URL.Query()
	switch id := strings.TrimPrefix(r.URL.Path, "/v1/backups"); {
	case id != "":
		for _, b := range l.lines(2) {
			if "/"+b.ID.String() == id {
				out = b
			}
		}
	case q.Get("after") != "":
		page := []api.BackupLine{}
		for _, b := range l.lines(1) {
			if (b.ID.String() > q.Get("after") || l.stuck) && len(page) < 2 {
				page = append(page, b)
			}
		}
		out = page
	case q.Get("points") == "newest":
		out = l.lines(1)
	case q.Get("all") != "" && l.bound >= 5:
		out = l.lines(1)
	case l.bound >= 10:
		out = l.lines(2)
	}
	w.Header().Set("Content-Type", "application/json")
	if out == nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		out = api.Error{Code: api.CodeTooLarge, Message: "too many"}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// TestLongLists: lists that are too long for one answer are put together from parts, and are then what they would be else.
func TestLongLists(t *testing.T) {
	t.Parallel()
	i := newIdentity(t, nil, nil, nil)
	l := &lists{}
	c := newClient(t, newServer(t, i, l).URL, i.fingerprint(t))
	for what, ask := range map[string]func() ([]api.BackupLine, error){
		"own": func() ([]api.BackupLine, error) { return c.Backups(t.Context()) },
		"all": func() ([]api.BackupLine, error) { return c.AllBackups(t.Context()) },
	} {
		l.bound = 10
		want, err := ask()
		if err != nil || len(want) != 5 {
			t.Fatalf("%s: %v, %v", what, want, err)
		}
		if what == "all" { // of the test, the order of ids is not that of names
			want[0], want[1], want[3], want[4] = want[4], want[3], want[1], want[0]
		}
		l.bound, l.asked = 1, nil
		got, err := ask()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-at once +in parts):\n%s", what, diff)
		}
		if n := map[string]int{"own": 7, "all": 5}[what]; len(l.asked) != n {
			t.Errorf("%s: %d requests, want %d: %v", what, len(l.asked), n, l.asked)
		}
	}
	l.stuck = true
	if _, err := c.AllBackups(t.Context()); !protocol.fits(err) {
		t.Errorf("pages that do not lead on: %v", err)
	}
}
