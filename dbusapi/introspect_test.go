package dbusapi_test

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/endpoint"
	"disksync/internal/testkit/lab"
)

// The original's interfaces, member by member, as "kind name(types)".
var historic = map[string][]string{
	mainFace: {
		"method list_disk_groups() → ao",
		"method create_disk_group() → o",
		"signal disk_group_state_change(s group_id, s state, o obj_path)",
		"signal disk_group_progress(s group_id, s stage, d percent_complete, d upload_speed, d dnload_speed, o obj_path)",
		"signal disk_group_interrupted(s group_id, s disk_uuid, o obj_path, s image_uuid, s reason)",
	},
	debugFace: {"method dump_tasks() → s"},
	confFace: {
		"readwrite b enable-dvd-cache",
		"readwrite b enable-usb-cache",
		"readwrite b force-local-checksum",
		"readwrite b enable-upload-compaction",
		"readwrite i download-cksize",
		"readwrite i upload-cksize",
		"readwrite i vhdsync-log-level",
		"readwrite b vhdsync-verbose",
		"readwrite i xfer-connect-timeout",
		"readwrite i xfer-lowspeed-limit",
		"readwrite i xfer-lowspeed-time",
		"readwrite s download-limit", "readwrite s upload-limit", "readwrite s metered-connections", // the original did not have these
	},
	groupFace: {
		"method list_disks() → ao",
		"method create_disk(s disk_uuid, s direction) → o",
		"method start()", "method stop()", "method pause()", "method resume()", "method delete()",
		"read s id", "read s state", "read s stage", "read d percent-complete", "read d upload-speed", "read d dnload-speed",
		"read i admctl-qpos", "read d admctl-retry-time",
	},
	diskFace: {
		"method list_images() → ao",
		"method create_image(s image_uuid, s image_url, s transfer_url, s server_cert_path, s client_cert_path, s client_key_path, " +
			"b encrypt_local_image, s transfer_context_id) → o",
		"read s id", "read s group-id", "read s disk-uuid", "read s direction", "read s state", "read s failure-reason",
	},
	imageFace: {
		"read s id", "read s disk-id", "read s image-uuid", "read s image-url", "read s transfer-url", "read s server-cert-path",
		"read s client-cert-path", "read s client-key-path", "read b encrypt-local-image", "read s transfer-context-id",
	},
}

// defaults are the original's, where it had them.
var defaults = map[string]any{
	"enable-dvd-cache": true, "enable-usb-cache": true, "force-local-checksum": false, "enable-upload-compaction": true,
	"download-cksize": int32(80), "upload-cksize": int32(40), "vhdsync-log-level": int32(6), "vhdsync-verbose": false,
	"xfer-connect-timeout": int32(10), "xfer-lowspeed-limit": int32(1024), "xfer-lowspeed-time": int32(5),
	"download-limit": "unlimited", "metered-connections": "pause", "upload-limit": "unlimited", // our own
}

type xmlNode struct {
	Interfaces []struct {
		Name    string `xml:"name,attr"`
		Methods []struct {
			Name string   `xml:"name,attr"`
			Args []xmlArg `xml:"arg"`
		} `xml:"method"`
		Signals []struct {
			Name string   `xml:"name,attr"`
			Args []xmlArg `xml:"arg"`
		} `xml:"signal"`
		Properties []struct {
			Name        string `xml:"name,attr"`
			Type        string `xml:"type,attr"`
			Access      string `xml:"access,attr"`
			Annotations []struct {
				Name  string `xml:"name,attr"`
				Value string `xml:"value,attr"`
			} `xml:"annotation"`
		} `xml:"property"`
	} `xml:"interface"`
	Nodes []struct {
		Name string `xml:"name,attr"`
	} `xml:"node"`
}

type xmlArg struct {
	Name      string `xml:"name,attr"`
	Type      string `xml:"type,attr"`
	Direction string `xml:"direction,attr"`
}

// described is what an object says of itself.
type described struct {
	members  map[string][]string // by interface
	children []string
}

func (r *rig) describe(path dbus.ObjectPath) described {
	r.t.Helper()
	text := must[string](r, path, "org.freedesktop.DBus.Introspectable.Introspect")
	var n xmlNode
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = true
	if err := d.Decode(&n); err != nil {
		r.t.Fatalf("introspection of %s: %v\n%s", path, err, text)
	}
	out := described{members: map[string][]string{}}
	for _, i := range n.Interfaces {
		members := []string{}
		for _, m := range i.Methods {
			members = append(members, "method "+m.Name+arguments(m.Args))
		}
		for _, s := range i.Signals {
			members = append(members, "signal "+s.Name+arguments(s.Args))
		}
		for _, p := range i.Properties {
			members = append(members, p.Access+" "+p.Type+" "+p.Name)
			// Clients may keep the value of a property unless they are told not to.
			if p.Access == "read" && (len(p.Annotations) != 1 || p.Annotations[0].Value != "false") {
				r.t.Errorf("%s: read-only property %s of %s lets clients keep its value", path, p.Name, i.Name)
			}
		}
		if out.members[i.Name] != nil {
			r.t.Errorf("%s: interface %s is there twice", path, i.Name)
		}
		out.members[i.Name] = members
	}
	for _, c := range n.Nodes {
		out.children = append(out.children, c.Name)
	}
	return out
}

func arguments(args []xmlArg) string {
	var in, result []string
	for _, a := range args {
		if a.Direction == "out" {
			result = append(result, a.Type)
		} else {
			in = append(in, a.Type+" "+a.Name)
		}
	}
	s := "(" + strings.Join(in, ", ") + ")"
	if len(result) > 0 {
		s += " → " + strings.Join(result, ", ")
	}
	return s
}

// everything returns the paths of all objects, by walking the tree as a browser does.
func (r *rig) everything() []dbus.ObjectPath {
	var all []dbus.ObjectPath
	var walk func(p dbus.ObjectPath)
	walk = func(p dbus.ObjectPath) {
		all = append(all, p)
		for _, c := range r.describe(p).children {
			walk(dbus.ObjectPath(strings.TrimSuffix(string(p), "/") + "/" + c))
		}
	}
	walk("/")
	return all
}

// TestIntrospection compares what every object says of itself with the original's interfaces.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2))
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	group := r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	r.await(group, "finished")

	disks := must[[]dbus.ObjectPath](r, group, groupFace+".list_disks")
	if len(disks) != 1 {
		t.Fatalf("disks %v", disks)
	}
	images := must[[]dbus.ObjectPath](r, disks[0], diskFace+".list_images")
	if len(images) != 1 {
		t.Fatalf("images %v", images)
	}
	standard := []string{"org.freedesktop.DBus.Introspectable", "org.freedesktop.DBus.Properties"}
	tests := []struct {
		path  dbus.ObjectPath
		faces []string
	}{
		{"/", []string{mainFace, debugFace, confFace, ownFace}},
		{group, []string{groupFace}},
		{disks[0], []string{diskFace}},
		{images[0], []string{imageFace}},
		{"/diskgroup", nil}, {"/disk", nil}, {"/image", nil},
	}
	for _, test := range tests {
		d := r.describe(test.path)
		var faces []string
		for name, members := range d.members {
			faces = append(faces, name)
			if diff := cmp.Diff(historic[name], members); diff != "" && historic[name] != nil {
				t.Errorf("%s: %s: -original +ours\n%s", test.path, name, diff)
			}
		}
		want := slices.Sorted(slices.Values(append(slices.Clone(standard), test.faces...)))
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(faces))); diff != "" {
			t.Errorf("%s: interfaces: -want +got\n%s", test.path, diff)
		}
	}
	// Whoever browses finds every object, and every object that lists name is there.
	want := append([]dbus.ObjectPath{"/", "/diskgroup", "/disk", "/image", group}, append(disks, images...)...)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(r.everything()))); diff != "" {
		t.Errorf("objects: -want +got\n%s", diff)
	}
}

// TestReadOnlyProperties: every property that is not a setting is read, in two ways, and refused to be written.
func TestReadOnlyProperties(t *testing.T) {
	r := newRig(t)
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	disk := must[dbus.ObjectPath](r, group, groupFace+".create_disk", "00000000-0000-0000-0000-000000000001", "down")
	for _, o := range []struct {
		path dbus.ObjectPath
		face string
	}{{group, groupFace}, {disk, diskFace}, {"/", ownFace}} {
		all := must[map[string]dbus.Variant](r, o.path, propFace+".GetAll", o.face)
		n := 0
		for _, member := range r.describe(o.path).members[o.face] {
			rest, ok := strings.CutPrefix(member, "read ")
			if !ok {
				continue
			}
			n++
			typ, name, _ := strings.Cut(rest, " ")
			v, ok := all[name]
			if !ok || v.Signature().String() != typ {
				t.Errorf("%s.%s is %v, want type %s", o.face, name, v, typ)
			}
			if one := must[dbus.Variant](r, o.path, propFace+".Get", o.face, name); one.String() != v.String() {
				t.Errorf("%s.%s is %v alone, %v among all", o.face, name, one, v)
			}
			r.refused("org.freedesktop.DBus.Error.PropertyReadOnly", []string{name}, o.path, propFace+".Set", o.face, name, v)
		}
		if n != len(all) || n == 0 {
			t.Errorf("%s: %d properties are described, %d are there", o.face, n, len(all))
		}
	}
	if got := property[string](r, group, groupFace, "state"); got != "stopped" {
		t.Errorf("an empty group is %s", got)
	}
	id := property[string](r, group, groupFace, "id")
	if want := "/diskgroup/" + strings.ReplaceAll(id, "-", "_"); string(group) != want {
		t.Errorf("group %s, want %s", group, want)
	}
	if got, want := property[string](r, disk, diskFace, "id"), id+"__00000000-0000-0000-0000-000000000001"; got != want {
		t.Errorf("disk id %s, want %s", got, want)
	}
}

func TestUnknown(t *testing.T) {
	r := newRig(t)
	const (
		noObject   = "org.freedesktop.DBus.Error.UnknownObject"
		noMethod   = "org.freedesktop.DBus.Error.UnknownMethod"
		noFace     = "org.freedesktop.DBus.Error.UnknownInterface"
		noProperty = "org.freedesktop.DBus.Error.UnknownProperty"
		noArgs     = "org.freedesktop.DBus.Error.InvalidArgs"
		introspect = "org.freedesktop.DBus.Introspectable.Introspect"
	)
	group := must[dbus.ObjectPath](r, "/", mainFace+".create_disk_group")
	disk := must[dbus.ObjectPath](r, group, groupFace+".create_disk", "00000000-0000-0000-0000-000000000001", "down")
	tests := []struct {
		want string
		path dbus.ObjectPath
		name string
		args []any
	}{
		{noMethod, "/", mainFace + ".no_such", nil},
		{noFace, "/", "org.example.Nothing.no_such", nil},
		{noFace, "/", groupFace + ".start", nil},
		{noFace, disk, groupFace + ".start", nil},
		{noFace, group, diskFace + ".list_images", nil},
		{noFace, "/elsewhere", mainFace + ".list_disk_groups", nil},
		{noFace, group + "/below", mainFace + ".list_disk_groups", nil},
		{noObject, "/diskgroup/none", groupFace + ".start", nil},
		{noObject, "/diskgroup", groupFace + ".start", nil},
		{noObject, group + "x", groupFace + ".list_disks", nil},
		{noObject, group + "/below", groupFace + ".list_disks", nil},
		{noObject, "/disk/none", diskFace + ".list_images", nil},
		{noObject, disk + "__x", diskFace + ".list_images", nil},
		{noObject, "/image/none", introspect, nil},
		{noObject, "/image/none", propFace + ".GetAll", []any{imageFace}},
		{noObject, "/diskgroup/none", propFace + ".Set", []any{groupFace, "state", dbus.MakeVariant("finished")}},
		{noProperty, "/", propFace + ".Get", []any{confFace, "no-such"}},
		{noProperty, "/", propFace + ".Get", []any{confFace, "max-parallel-tasks"}},
		{noProperty, "/", propFace + ".Set", []any{confFace, "no-such", dbus.MakeVariant(true)}},
		{noProperty, group, propFace + ".Get", []any{groupFace, ""}},
		{noFace, "/", propFace + ".Get", []any{groupFace, "state"}},
		{noFace, "/", propFace + ".GetAll", []any{""}},
		{noFace, group, propFace + ".GetAll", []any{confFace}},
		{noFace, disk, propFace + ".GetAll", []any{groupFace}},
		{noFace, "/disk", propFace + ".GetAll", []any{diskFace}},
		{noArgs, "/", mainFace + ".create_disk_group", []any{"too", "many"}},
		{noArgs, group, groupFace + ".create_disk", []any{"too few"}},
		{noArgs, group, groupFace + ".create_disk", []any{int32(1), "down"}},
		{noArgs, "/", ownFace + ".media", []any{"no list"}},
		{noArgs, "/", ownFace + ".operation", []any{"/is/no/path/but/text"}},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s %s %v", test.path, test.name, test.args), func(t *testing.T) {
			wantError(t, r.call(test.path, test.name, test.args...).Err, test.want)
		})
	}
	if got := property[string](r, group, groupFace, "state"); got != "stopped" {
		t.Errorf("after all this the group is %s", got)
	}
}
