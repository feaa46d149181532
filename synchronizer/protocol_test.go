package synchronizer_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/synchronizer"
)

const protocol = "../docs/protocol.md"

// wire are the types that go over the wire.
var wire = []any{
	api.Server{}, api.Login{}, api.Device{}, api.Token{}, api.Offer{}, api.Image{}, api.VersionInfo{}, api.DiskInfo{}, api.Seal{}, api.SealDisk{}, image.Machine{},
	api.Upload{}, api.NewUser{}, api.User{}, api.Password{}, api.Group{}, api.Assignment{}, api.DeviceInfo{}, api.MediaFile{}, api.AuditEntry{},
	api.Error{}, api.Layer{}, api.NewSquash{}, api.Squash{}, api.Policy{}, api.MediaKey{},
	api.BackupPolicy{}, api.NewBackup{}, api.Start{}, api.BackupLine{}, api.BackupPoint{}, api.SealPoint{}, api.PointDisk{},
}

// section returns what the document has below a heading.
func section(t *testing.T, heading string) string {
	t.Helper()
	b, err := os.ReadFile(protocol)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %s", protocol, heading)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// rows returns the cells of the lines of a table, without its head.
func rows(t *testing.T, heading string) [][]string {
	t.Helper()
	var out [][]string
	for line := range strings.Lines(section(t, heading)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		out = append(out, cells)
	}
	if len(out) < 2 {
		t.Fatalf("section %s has no table", heading)
	}
	return out[1:]
}

// TestProtocolRoutes compares the table of routes with that of the document, with the right of each.
func TestProtocolRoutes(t *testing.T) {
	words := map[synchronizer.Permission]string{synchronizer.Anybody: "anybody", synchronizer.Member: "user", synchronizer.Operator: "admin"}
	var want, got []string
	for _, r := range synchronizer.Routes() {
		want = append(want, fmt.Sprintf("`%s` %s", r.Pattern, words[r.Need]))
	}
	for _, row := range rows(t, "Routes") {
		if len(row) != 4 || row[2]+row[3] == "" {
			t.Errorf("row %q", row)
			continue
		}
		got = append(got, row[0]+" "+row[1])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-code +document):\n%s", diff)
	}
}

// TestProtocolErrors compares the codes of package api, and the statuses that they are sent with, with those of the document.
func TestProtocolErrors(t *testing.T) {
	want := map[string]int{}
	for name, code := range constants(t, "Code") {
		status, ok := synchronizer.Statuses[api.Code(code)]
		if !ok {
			t.Errorf("%s has no status", name)
		}
		want["`"+code+"`"] = status
	}
	if len(want) < 10 {
		t.Fatalf("found %d codes", len(want))
	}
	got := map[string]int{}
	for _, row := range rows(t, "Errors") {
		status, err := strconv.Atoi(row[1])
		if err != nil || len(row) != 4 || row[2] == "" || row[3] == "" {
			t.Errorf("row %q", row)
		}
		got[row[0]] = status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("codes (-code +document):\n%s", diff)
	}
}

// constants returns the constants of a text type of package api. They are read from the source: a new one that is not in some list
// of ours must not be overlooked.
func constants(t *testing.T, typeName string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range apiFiles(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typeName {
				for i, name := range spec.Names {
					text, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
					if err != nil {
						t.Error(err)
					}
					out[name.Name] = text
				}
			}
			return true
		})
	}
	return out
}

func apiFiles(t *testing.T) []*ast.File {
	t.Helper()
	entries, err := os.ReadDir("../api")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), "../api/"+e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// memberPattern matches a member at the start of what is said about it, and ? when it may be missing.
var memberPattern = regexp.MustCompile("^ ?`([a-z_]+)`(\\??)( |$)")

// TestProtocolTypes compares the members of the types of package api with those of the document.
func TestProtocolTypes(t *testing.T) {
	listed := map[string]string{}
	for _, row := range rows(t, "Types") {
		if len(row) != 2 {
			t.Fatalf("row %q", row)
		}
		listed[row[0]] = row[1]
	}
	known := map[string]bool{}
	for _, v := range wire {
		typ := reflect.TypeOf(v)
		known[typ.Name()] = true
		text, ok := listed[typ.Name()]
		if !ok {
			t.Errorf("type %s is not in the document", typ.Name())
			continue
		}
		if diff := cmp.Diff(members(typ), documented(t, text)); diff != "" {
			t.Errorf("%s (-code +document):\n%s", typ.Name(), diff)
		}
	}
	for name := range listed {
		if !known[name] {
			t.Errorf("the document has a type %s, which does not go over the wire", name)
		}
	}
	// A type with members in JSON goes over the wire.
	for name := range jsonTypes(t) {
		if !known[name] {
			t.Errorf("api.%s has JSON members and is not in the list of this test", name)
		}
	}
}

// requested are members that a request may leave out, though answers always have them or there are none.
var requested = []string{"NewUser.admin", "Assignment.version", "Device.name"}

// members returns the names of a type's members in JSON, and whether each may be missing.
func members(typ reflect.Type) map[string]bool {
	out := map[string]bool{}
	for _, f := range reflect.VisibleFields(typ) {
		if f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		out[name] = strings.Contains(options, "omit") || slices.Contains(requested, typ.Name()+"."+name)
	}
	return out
}

// documented returns the same from a cell of the document.
func documented(t *testing.T, cell string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, part := range split(cell) {
		m := memberPattern.FindStringSubmatch(part)
		if m == nil {
			t.Errorf("this is no member: %q", part)
			continue
		}
		out[m[1]] = m[2] == "?"
	}
	return out
}

// split cuts a cell at the commas outside of brackets.
func split(cell string) []string {
	var out []string
	depth, from := 0, 0
	for i, c := range cell {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			out = append(out, cell[from:i])
			from = i + 1
		}
	}
	return append(out, cell[from:])
}

// jsonTypes returns the names of the structs of package api that have members in JSON.
func jsonTypes(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, f := range apiFiles(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool { return f.Tag != nil }) {
				out[spec.Name.Name] = true
			}
			return true
		})
	}
	if len(out) < 15 {
		t.Fatalf("found %d types", len(out))
	}
	return out
}

// TestProtocolLimits finds the limits of package api in what the document says about them.
func TestProtocolLimits(t *testing.T) {
	for _, test := range []struct {
		heading, want string
	}{
		{"In short", fmt.Sprintf("one JSON value, at most %d MiB", api.MaxJSON>>20)},
		{"In short", fmt.Sprintf("has the version of the protocol as its first element, `%s`", api.Version)},
		{"Login", fmt.Sprintf("%d days from the login", api.TokenLife/(24*time.Hour))},
		{"Routes", fmt.Sprintf("the signed manifest, at most %d MiB", image.MaxEnvelopeSize>>20)},
		{"Types", fmt.Sprintf("has at most %d bytes", api.MaxName)},
		{"Types", fmt.Sprintf("`password` text (at most %d bytes)", api.MaxPassword)},
		{"Types", fmt.Sprintf("`password` text (1 to %d bytes)", api.MaxPassword)},
		{"Types", fmt.Sprintf("`note`? text (at most %d bytes)", api.MaxNote)},
		{"Publishing", fmt.Sprintf("at most %d MiB, and no more than is missing", api.MaxUploadChunk>>20)},
		{"Routes", fmt.Sprintf("At most %d MiB", api.MaxList>>20)},
		{"Types", fmt.Sprintf("`note`? text (at most %d bytes), `disks` [PointDisk]", api.MaxNote)},
		{"Lists of backups", fmt.Sprintf("bounded: by %d MiB, and where it has several lines by %d points, or lines", api.MaxList>>20, api.MaxListed)},
		{"Lists of backups", fmt.Sprintf("up to %d lines", api.PageLines)},
		{"Types", fmt.Sprintf("of the latter up to %d minutes old", synchronizer.SeenEvery/time.Minute)},
		{"Backups", fmt.Sprintf("A user has at most %d lines, a line %d points", api.MaxLines, api.MaxPoints)},
		{"Backups", fmt.Sprintf("%d uploads that did not end, and room that the server's disk has above %d GiB", synchronizer.MaxUserUploads,
			synchronizer.UserReserve>>30)},
		{"Backups", fmt.Sprintf("kept to %d layers besides", synchronizer.MaxOwnLayers)},
		{"Backups", fmt.Sprintf("read back once in %d days", synchronizer.CheckEvery/(24*time.Hour))},
		{"Publishing", fmt.Sprintf("%d layers lead to a disk", image.MaxPathLayers)},
	} {
		if !strings.Contains(section(t, test.heading), test.want) {
			t.Errorf("section %s does not say %q", test.heading, test.want)
		}
	}
}
