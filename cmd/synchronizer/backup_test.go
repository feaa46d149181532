package main

import (
	"bytes"
	"crypto/sha256"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/api"
	"disksync/image"
	"disksync/layer"
	"disksync/syncclient"
)

// backup USER VM FILE: what an endpoint of the user does to back up a VM of the first image that is meant for the user, whose system disk
// is in the file. The password is "password".
func backup(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: backup USER VM FILE")
	}
	ctx := ts.Value(sceneKey{}).(*scene).t.Context()
	u, err := url.Parse(ts.Getenv("URL"))
	ts.Check(err)
	fp, err := syncclient.ParseFingerprint(ts.Getenv("FINGERPRINT"))
	ts.Check(err)
	c, err := syncclient.New(syncclient.Options{URL: u, Fingerprint: fp})
	ts.Check(err)
	defer c.Close()
	id := sha256.Sum256([]byte(args[0]))
	tok, err := c.Login(ctx, api.Login{User: args[0], Password: "password", Device: api.Device{ID: image.RandomUUID([16]byte(id[:16])), Name: "laptop of " + args[0]}})
	ts.Check(err)
	c = c.WithToken(tok.Token)
	offers, err := c.Offers(ctx)
	ts.Check(err)
	vm := sha256.Sum256([]byte(args[1]))
	line, err := c.OpenBackup(ctx, api.NewBackup{VM: image.RandomUUID([16]byte(vm[:16])), Name: args[1], Image: offers[0].Image, ImageID: offers[0].ImageID})
	ts.Check(err)
	disk, err := os.ReadFile(ts.MkAbs(args[2]))
	ts.Check(err)
	var file bytes.Buffer
	res, err := layer.Encode(ctx, &file, image.State{}, contentOf{bytes.NewReader(disk)}, layer.EncodeOptions{Level: 1})
	ts.Check(err)
	ts.Check(c.Upload(ctx, res.Index.ID(), bytes.NewReader(file.Bytes()), int64(file.Len()), nil))
	in := api.SealPoint{Point: line.Newest + 1, Version: offers[0].Version, Consistency: image.Stopped, Disks: []api.PointDisk{
		{Role: image.System, State: res.State.ID(), Layer: res.Index.ID()},
	}}
	_, err = c.SealPoint(ctx, line.ID, in)
	ts.Check(err)
	env, err := c.PointManifest(ctx, line.ID, in.Point)
	ts.Check(err)
	if !bytes.Contains(env, []byte("payload")) {
		ts.Fatalf("a manifest like %s", env)
	}
	_, err = c.PointLayers(ctx, line.ID, in.Point, nil, nil)
	ts.Check(err)
}

// contentOf is a disk in memory.
type contentOf struct{ *bytes.Reader }

// TestLineState goes through the words about lines.
func TestLineState(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(ago ...time.Duration) (ps []api.BackupPoint) {
		for _, a := range ago {
			ps = append(ps, api.BackupPoint{Created: now.Add(-a)})
		}
		return ps
	}
	for _, c := range []struct {
		name  string
		every int
		ps    []api.BackupPoint
		want  string
		bad   int
	}{
		{"nothing, and nothing due", 0, nil, "empty", 0},
		{"nothing yet", 60, nil, "overdue", 0},
		{"old, but none is due", 0, at(5000 * time.Hour), "good", 0},
		{"new", 60, at(9*time.Hour, time.Minute), "good", 0},
		{"as old as it may be", 60, at(2 * time.Hour), "good", 0},
		{"older", 60, at(9*time.Hour, 2*time.Hour+time.Second), "overdue", 0},
		{"damaged", 60, at(9 * time.Hour), "damaged", 1},
	} {
		if got := lineState(api.BackupLine{Every: c.every, Points: c.ps, Damaged: c.bad}, now); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	for text, want := range map[string]string{"0": "0s", "30m": "30m0s", "4h": "4h0m0s", "2d": "48h0m0s", "x": "error", "-1d": "error", "1.5d": "error"} {
		d, err := parseSpan(text)
		if got := d.String(); err == nil && got != want || err != nil && want != "error" {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	if s := strings.Join([]string{span(5), span(90), span(240), span(2880)}, " "); s != "5 min 90 min 4 h 2 d" {
		t.Error(s)
	}
}
