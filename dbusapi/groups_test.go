package dbusapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/vhd/vhdfile"
)

// golden is a published version as a caller of the original's interface has to know it.
type golden struct {
	uuid string // of the VHD that it becomes
	url  string // of its newest layer
}

func goldenOf(t *testing.T, l *lab.Lab, url, name string) []golden {
	t.Helper()
	im, err := l.Admin.Image(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var out []golden
	for _, v := range im.Versions {
		d := v.Disks[0]
		out = append(out, golden{image.VHDUUID(d.State).String(), url + "/" + api.Version + "/layers/" + d.Layer.String()})
	}
	return out
}

// createImage adds an image to a disk in the original's way.
func (r *rig) createImage(disk dbus.ObjectPath, g golden) *dbus.Call {
	return r.call(disk, diskFace+".create_image", g.uuid, g.url, g.url, "/ca.pem", "/cert.pem", "/key.pem", false, "context")
}

// TestHistoricWay installs two versions with nothing but the original's interface: a group, a disk, its images with the leaf
// first, and start.
func TestHistoricWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	v1, v2 := lab.Disk(1, 2, 0, 4), lab.Disk(1, 9, 0, 4, 5)
	l.Publish(t, "win7", v1)
	l.Publish(t, "win7", v2)
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	versions := goldenOf(t, l, l.URL, "win7")
	base, leaf := versions[0], versions[1]

	group, exit := r.xec("create-disk-group")
	group = strings.TrimSpace(group)
	if exit != 0 {
		t.Fatalf("create-disk-group: %s", group)
	}
	disk, exit := r.xec("-o", group, "create-disk", leaf.uuid, "down")
	disk = strings.TrimSpace(disk)
	if exit != 0 {
		t.Fatalf("create-disk: %s", disk)
	}
	leafPath, exit := r.xec("-o", disk, "create-image", leaf.uuid, leaf.url, leaf.url, "/ca.pem", "/cert.pem", "/key.pem", "false", "context")
	if exit != 0 {
		t.Fatalf("create-image: %s", leafPath)
	}
	if out, ok := r.gdbus(disk, diskFace+".create_image", base.uuid, base.url, "", "", "", "", "false", ""); !ok {
		t.Fatalf("create_image: %s", out)
	}
	images := must[[]dbus.ObjectPath](r, dbus.ObjectPath(disk), diskFace+".list_images")
	if len(images) != 2 || string(images[0]) != strings.TrimSpace(leafPath) {
		t.Fatalf("images %v, the first should be %s", images, leafPath)
	}
	all := must[map[string]dbus.Variant](r, images[0], propFace+".GetAll", imageFace)
	got := map[string]any{}
	for k, v := range all {
		got[k] = v.Value()
	}
	id := property[string](r, dbus.ObjectPath(group), groupFace, "id")
	want := map[string]any{
		"id": id + "__" + leaf.uuid + "__" + leaf.uuid, "disk-id": id + "__" + leaf.uuid, "image-uuid": leaf.uuid, "image-url": leaf.url,
		"transfer-url": leaf.url, "server-cert-path": "/ca.pem", "client-cert-path": "/cert.pem", "client-key-path": "/key.pem",
		"encrypt-local-image": false, "transfer-context-id": "context",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("image: -want +got\n%s", diff)
	}
	tasks, _ := r.xec("dump-tasks")
	for _, line := range []string{
		group + " stopped", disk + " " + group + " stopped", string(images[0]) + " " + disk + " stopped", string(images[1]) + " " + disk + " stopped",
	} {
		if !strings.Contains(tasks, line+"\n") {
			t.Errorf("dump-tasks does not have %q:\n%s", line, tasks)
		}
	}

	if out, exit := r.xec("-o", group, "start"); exit != 0 {
		t.Fatalf("start: %s", out)
	}
	r.await(dbus.ObjectPath(group), "finished", "failed")
	if got := property[string](r, dbus.ObjectPath(disk), diskFace, "state"); got != "finished" {
		t.Fatalf("disk is %s: %s", got, property[string](r, dbus.ObjectPath(disk), diskFace, "failure-reason"))
	}
	if got := property[float64](r, dbus.ObjectPath(group), groupFace, "percent-complete"); got != 1 {
		t.Errorf("percent-complete of a finished group is %v", got)
	}
	r.wantVHD(base.uuid, v1)
	r.wantVHD(leaf.uuid, v2)

	// What is installed is kept when its group is deleted, and found by the next one.
	r.do(dbus.ObjectPath(group), groupFace+".delete")
	if groups := must[[]dbus.ObjectPath](r, "/", mainFace+".list_disk_groups"); len(groups) != 0 {
		t.Errorf("groups after delete: %v", groups)
	}
	r.wantVHD(leaf.uuid, v2)
	again := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	d := must[dbus.ObjectPath](r, again, groupFace+".create_disk", leaf.uuid, "down")
	if err := r.createImage(d, leaf).Err; err != nil {
		t.Fatal(err)
	}
	r.do(again, groupFace+".start")
	r.await(again, "finished")
}

// wantVHD compares an installed VHD with the content that it must have.
func (r *rig) wantVHD(uuid string, want []byte) {
	r.t.Helper()
	c, err := vhdfile.OpenChain(filepath.Join(r.dir, "disks", uuid+".vhd"), vhdfile.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil && err != io.EOF {
		r.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		r.t.Errorf("VHD %s does not have the content that was published", uuid)
	}
}

// TestHistoricRefusals: what cannot be meant is refused when it is said, with the original's words.
func TestHistoricRefusals(t *testing.T) {
	t.Parallel()
	const failed = "org.freedesktop.DBus.Error.Failed"
	r := newRig(t)
	const uuid = "00000000-0000-0000-0000-000000000001"
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	disk := must[dbus.ObjectPath](r, group, groupFace+".create_disk", uuid, "down")
	some := golden{uuid, "https://127.0.0.1:1/" + api.Version + "/layers/" + strings.Repeat("ab", 32)}
	wantError(t, r.createImage(disk, some).Err, failed, "111:invalid-request", "not registered")

	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Publish(t, "win7", lab.Disk(1, 3))
	l.Publish(t, "secret", lab.Disk(7))
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	base, leaf := goldenOf(t, l, l.URL, "win7")[0], goldenOf(t, l, l.URL, "win7")[1]
	for _, c := range []struct{ uuid, direction, words string }{
		{uuid[1:], "down", "uuid"},
		{"", "down", "uuid"},
		{"../../etc/passwd", "down", "uuid"},
		{uuid, "down", "already"},
		{leaf.uuid, "up", "uploads"},
		{leaf.uuid, "sideways", "want up or down"},
		{leaf.uuid, "", "want up or down"},
	} {
		r.refused(failed, []string{"111:invalid-request", c.words}, group, groupFace+".create_disk", c.uuid, c.direction)
	}
	layers := l.URL + "/" + api.Version + "/layers/"
	for _, url := range []string{
		"", "x", "/etc/passwd", "file:///etc/passwd", "http" + strings.TrimPrefix(base.url, "https"), l.URL, layers, layers + "zz", base.url + "/",
		base.url + "?a=b", base.url + "#x", strings.Replace(base.url, "/layers/", "/layers/../layers/", 1),
		strings.Replace(base.url, "https://", "https://user@", 1), strings.Replace(base.url, "127.0.0.1", "127.0.0.2", 1),
		"https://example.org/" + api.Version + "/layers/" + strings.Repeat("ab", 32), strings.Replace(base.url, "/layers/", "/manifests/", 1),
	} {
		r.refused(failed, []string{"111:invalid-request"}, disk, diskFace+".create_image", base.uuid, url, "", "", "", "", false, "")
		if url != "" {
			r.refused(failed, []string{"111:invalid-request"}, disk, diskFace+".create_image", base.uuid, base.url, url, "", "", "", false, "")
		}
	}
	r.refused(failed, []string{"111:invalid-request", "something else"}, disk, diskFace+".create_image", base.uuid, base.url, leaf.url, "", "", "", false, "")
	r.refused(failed, []string{"111:invalid-request", "uuid"}, disk, diskFace+".create_image", "x", base.url, "", "", "", "", false, "")
	r.refused(failed, []string{"111:invalid-request", "encrypt"}, disk, diskFace+".create_image", base.uuid, base.url, "", "", "", "", true, "")
	if out, exit := r.xec("-o", string(group), "create-disk", leaf.uuid, "up"); exit != 1 || !strings.HasPrefix(out, failed+": 111:invalid-request") {
		t.Errorf("xec: %d %s", exit, out)
	}
	if images := must[[]dbus.ObjectPath](r, disk, diskFace+".list_images"); len(images) != 0 {
		t.Errorf("refused images are there: %v", images)
	}

	// What only the manifest can tell shows when the group runs.
	secret := goldenOf(t, l, l.URL, "secret")[0]
	for _, c := range []struct {
		name, reason string
		images       []golden
	}{
		{"uuid of another VHD", "invalid-request", []golden{{base.uuid, leaf.url}}},
		{"leaf last", "invalid-request", []golden{base, leaf}},
		{"not meant for the user", "file-not-exists", []golden{secret}},
		{"no such layer", "file-not-exists", []golden{{base.uuid, layers + strings.Repeat("ab", 32)}}},
		{"no image", "", nil},
	} {
		g := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
		d := must[dbus.ObjectPath](r, g, groupFace+".create_disk", leaf.uuid, "down")
		for _, im := range c.images {
			if err := r.createImage(d, im).Err; err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		r.do(g, groupFace+".start")
		r.await(g, "failed", "finished")
		if got := property[string](r, g, groupFace, "state"); got != "failed" {
			t.Errorf("%s: group is %s", c.name, got)
		}
		if got := property[string](r, d, diskFace, "failure-reason"); got != c.reason && c.images != nil {
			t.Errorf("%s: failure-reason %q, want %q", c.name, got, c.reason)
		}
	}
	if entries, err := filepath.Glob(filepath.Join(r.dir, "disks", "*")); err != nil || len(entries) != 0 {
		t.Errorf("something was installed: %v %v", entries, err)
	}
}

// slowRig is a rig that is logged in over a line of a known speed, with win7 assigned: disk, in one version.
func slowRig(t *testing.T, perSecond int64, disk []byte) (*rig, *lab.Lab, *lab.Line) {
	t.Helper()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", disk)
	l.Assign(t, "win7", "alice", 0)
	line := l.Line(t, 0)
	r.logIn(l, line.URL)
	line.SetRate(perSecond)
	return r, l, line
}

// TestControl pauses, resumes, stops, starts and deletes a download. A group that rests stays as it is; what it did is kept.
func TestControl(t *testing.T) {
	t.Parallel()
	disk := lab.Disk(1, 2, 3, 4, 5, 6, 7, 8)
	r, _, line := slowRig(t, 4<<20, disk)
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	moving := func() {
		t.Helper()
		from := line.Down()
		testkit.Until(r.t, "the transfer moves", func() bool { return line.Down() > from+256<<10 })
	}
	moving()
	if got := property[string](r, group, groupFace, "state"); got != "inprogress" {
		t.Errorf("state %s", got)
	}
	images := must[[]dbus.ObjectPath](r, must[[]dbus.ObjectPath](r, group, groupFace+".list_disks")[0], diskFace+".list_images")
	if len(images) != 1 {
		t.Errorf("images %v", images)
	}
	// A group that runs cannot be built on.
	r.refused("org.freedesktop.DBus.Error.Failed", []string{"113:invalid-image-state"}, group, groupFace+".create_disk",
		"00000000-0000-0000-0000-000000000001", "down")
	r.do(group, groupFace+".start") // it runs already

	r.do(group, groupFace+".pause")
	r.await(group, "paused")
	r.do(group, groupFace+".pause")
	r.restart() // what is paused stays so
	if got := property[string](r, group, groupFace, "state"); got != "paused" {
		t.Errorf("after a restart a paused group is %s", got)
	}
	r.do(group, groupFace+".resume")
	r.await(group, "inprogress")
	moving()
	r.do(group, groupFace+".resume") // does nothing
	r.do(group, groupFace+".stop")
	r.await(group, "stopped")
	r.do(group, groupFace+".resume") // only what is paused is resumed
	if got := property[string](r, group, groupFace, "state"); got != "stopped" {
		t.Errorf("resume made a stopped group %s", got)
	}
	r.do(group, groupFace+".start")
	moving()
	r.restart() // what ran goes on
	r.await(group, "inprogress")
	moving()
	parts := func() []string {
		found, err := filepath.Glob(filepath.Join(r.dir, "disks", "*.part"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if len(parts()) == 0 {
		t.Error("nothing was begun")
	}
	r.do(group, groupFace+".delete")
	if left := parts(); len(left) != 0 {
		t.Errorf("left after delete: %v", left)
	}
	r.refused("org.freedesktop.DBus.Error.UnknownObject", nil, group, groupFace+".start")
	if found, _ := os.ReadDir(filepath.Join(r.dir, "operations")); len(found) != 0 {
		t.Errorf("left after delete: %v", found)
	}
	line.SetRate(0)
	r.await(r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"}), "finished")
}

// TestOurOperationsAreGroups: what our own interface starts shows in the original's.
func TestOurOperationsAreGroups(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Publish(t, "win7", lab.Disk(1, 3))
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	r.await(group, "finished")
	if groups := must[[]dbus.ObjectPath](r, "/", mainFace+".list_disk_groups"); len(groups) != 1 || groups[0] != group {
		t.Errorf("groups %v, want %s", groups, group)
	}
	disks := must[[]dbus.ObjectPath](r, group, groupFace+".list_disks")
	images := must[[]dbus.ObjectPath](r, disks[0], diskFace+".list_images")
	for i, g := range goldenOf(t, l, l.URL, "win7") {
		im := images[len(images)-1-i] // the newest is first
		if got := property[string](r, im, imageFace, "image-uuid"); got != g.uuid {
			t.Errorf("image %d has uuid %s, want %s", i, got, g.uuid)
		}
		if got := property[string](r, im, imageFace, "image-url"); got != g.url {
			t.Errorf("image %d has url %s, want %s", i, got, g.url)
		}
	}
	var st endpoint.Status
	if err := json.Unmarshal([]byte(must[string](r, "/", ownFace+".operation", group)), &st); err != nil {
		t.Fatal(err)
	}
	if st.State != endpoint.Finished || st.Receipt == nil || st.Receipt.Version != 2 {
		t.Errorf("operation %+v", st)
	}
	var all []endpoint.Status
	if err := json.Unmarshal([]byte(must[string](r, "/", ownFace+".operations")), &all); err != nil || len(all) != 1 || all[0].ID != st.ID {
		t.Errorf("operations %v %v", all, err)
	}
	// A failure shows in the group, and its reason with each of its disks.
	bad := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "other", Version: 9})
	r.await(bad, "failed")
	tasks, _ := r.xec("dump-tasks")
	if !strings.Contains(tasks, fmt.Sprintf("%s failed", bad)) {
		t.Errorf("dump-tasks: %s", tasks)
	}
}
