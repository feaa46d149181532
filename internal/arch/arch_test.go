// Package arch holds the rules of the house as tests: which package may import which, which code may touch persistent names,
// and how long files and functions may grow.
package arch_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "disksync"

// rule says what a package may import besides the standard library: packages of the project (a prefix with /… covers what is
// below), and modules of others.
type rule struct {
	ours   string
	others string
}

// rules is the map of the house, from the bottom up. Imports point down; a new line, or a new word in a line, wants a reason in
// the change that adds it.
var rules = map[string]rule{
	"image":         {"", ""},
	"agefile":       {"", "filippo.io/age"},
	"api":           {"image", ""},
	"vhd":           {"image", ""},
	"diskmap":       {"volume volume/exfat volume/ext volume/fat volume/ntfs/format volume/table", ""},
	"vhd/vhdfile":   {"image vhd", "golang.org/x/sys"},
	"disk":          {"disk/nbd vhd", "golang.org/x/sync"},
	"disk/nbd":      {"", ""},
	"disk/fusefile": {"disk/nbd", "github.com/hanwen/go-fuse golang.org/x/sys"},
	"volume":        {"", ""},
	"layer":         {"image internal/hugepage internal/lzma internal/numbers internal/recompress", "github.com/klauspost/compress golang.org/x/sync"},
	"config":        {"internal/durable internal/limit", "github.com/pelletier/go-toml/v2"},
	"cache":         {"diskmap image layer vhd volume", "golang.org/x/sys"},
	"syncclient":    {"agefile api image layer internal/limit internal/problem", "golang.org/x/sys"},
	"media/disc":    {"internal/crcitut", ""},
	"media":         {"api image layer media/disc syncclient vhd internal/durable internal/problem", "golang.org/x/sys"},
	"publish":       {"api diskmap image layer syncclient vhd vhd/vhdfile internal/durable internal/problem", "github.com/klauspost/compress golang.org/x/sys"},
	"deploy":        {"api cache image layer syncclient vhd internal/durable internal/limit internal/problem internal/process", "golang.org/x/sync"},
	"backup":        {"agefile api deploy diskmap image layer syncclient internal/durable internal/limit internal/mediachild internal/problem", ""},
	"synchronizer": {"agefile api image layer internal/durable internal/release",
		"golang.org/x/crypto golang.org/x/sync golang.org/x/sys golang.org/x/time modernc.org/sqlite"},
	"endpoint": {"agefile api backup cache config deploy disk diskmap disk/nbd hypervisor hypervisor/libvirt image layer syncclient vhd internal/durable internal/limit " +
		"internal/mediachild internal/problem internal/process internal/qmp", "golang.org/x/sys"},
	"hypervisor":         {"image", ""},
	"hypervisor/libvirt": {"internal/problem", "github.com/digitalocean/go-libvirt"},
	"dbusapi": {"api config deploy endpoint image syncclient internal/busconn internal/problem internal/release internal/remotedisk",
		"github.com/godbus/dbus/v5 golang.org/x/sys"},
	"xec": {"internal/busconn", "github.com/godbus/dbus/v5"},

	"cmd/xec": {"xec", ""},
	"cmd/disksyncmgr": {"api cache config dbusapi deploy disk/fusefile diskmap endpoint hypervisor image syncclient vhd volume volume/detect internal/…",
		"github.com/spf13/cobra"},
	"cmd/synchronizer": {"agefile api diskmap image media publish syncclient synchronizer internal/…",
		"github.com/spf13/cobra github.com/klauspost/compress"},
	"cmd/vhd-util": {"disk disk/fusefile disk/nbd image vhd vhd/vhdfile internal/cli internal/durable internal/problem internal/progress internal/release",
		"github.com/spf13/cobra"},

	"volume/detect":      {"diskmap volume volume/…", ""},
	"volume/table":       {"", ""},
	"volume/exfat":       {"volume volume/fat", ""},
	"volume/ext":         {"volume", ""},
	"volume/fat":         {"volume", ""},
	"volume/iso9660":     {"volume", ""},
	"volume/ntfs":        {"volume volume/ntfs/format", ""},
	"volume/ntfs/format": {"", ""},
	"volume/udf":         {"volume internal/crcitut", ""},
	"volume/volumetest":  {"volume internal/testkit", ""},

	"internal/arch": {"", ""},
	"internal/bench": {"api deploy disk/fusefile diskmap endpoint image layer media publish vhd/vhdfile internal/durable internal/progress",
		"github.com/klauspost/compress golang.org/x/sync golang.org/x/sys"},
	"internal/busconn": {"", "github.com/godbus/dbus/v5"},
	"internal/cli":     {"internal/problem", "github.com/spf13/cobra golang.org/x/term"},
	"internal/demo": {"api deploy endpoint image media publish internal/demodisk internal/durable internal/progress internal/testkit/privbus",
		"golang.org/x/sync golang.org/x/sys golang.org/x/term golang.org/x/time"},
	"internal/crcitut":              {"", ""},
	"internal/demodisk":             {"", "github.com/diskfs/go-diskfs"},
	"internal/durable":              {"", "golang.org/x/sys"},
	"internal/faultfs":              {"internal/durable", ""},
	"internal/hugepage":             {"", "golang.org/x/sys"},
	"internal/limit":                {"", ""},
	"internal/lzma":                 {"", ""},
	"internal/mediachild":           {"diskmap volume volume/detect internal/remotedisk", "golang.org/x/sys"},
	"internal/mediachild/testchild": {"diskmap volume volume/detect internal/mediachild", "golang.org/x/sys"},
	"internal/metered":              {"internal/busconn", "github.com/godbus/dbus/v5"},
	"internal/netchaos":             {"", ""},
	"internal/problem":              {"", ""},
	"internal/process":              {"", "golang.org/x/sys"},
	"internal/qmp":                  {"", ""},
	"internal/progress":             {"", "github.com/schollz/progressbar/v3 golang.org/x/term"},
	"internal/numbers":              {"", ""},
	"internal/recompress":           {"internal/numbers", ""},
	"internal/release":              {"", ""},
	"internal/remotedisk":           {"internal/problem", ""},
	"internal/testkit":              {"internal/testkit/privbus", ""},
	"internal/testkit/guest":        {"internal/testkit", "golang.org/x/sys"},
	"internal/testkit/lab":          {"api image media publish syncclient synchronizer", ""},
	"internal/testkit/privbus":      {"", "github.com/godbus/dbus/v5"},
	"internal/testkit/slowdisk":     {"", "github.com/hanwen/go-fuse"},
	"internal/testkit/script":       {"internal/testkit internal/testkit/lab vhd", "github.com/rogpeppe/go-internal"},
	"internal/hotplug":              {"cache internal/durable internal/udisks", "golang.org/x/sys"},
	"internal/testkit/fakeudisks":   {"", "github.com/godbus/dbus/v5"},
	"internal/udisks":               {"internal/busconn", "github.com/godbus/dbus/v5"},
}

// pure packages take readers and bytes and return values: no files, no network, no clock, no logging.
var pure = []string{"agefile", "image", "vhd", "hypervisor", "layer", "api", "diskmap", "media/disc", "internal/lzma", "internal/numbers", "internal/recompress", "internal/crcitut",
	"volume", "volume/exfat", "volume/ext", "volume/fat", "volume/iso9660", "volume/ntfs", "volume/ntfs/format", "volume/udf", "volume/detect", "volume/table"}

var notPure = []string{"os", "net", "net/http", "log", "log/slog", "os/exec", "syscall"}

// source is one Go file of the project.
type source struct {
	name  string // relative to the root
	pkg   string // folder relative to the root
	file  *ast.File
	fset  *token.FileSet
	text  []string // lines
	tests bool
}

func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out []source
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != root || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(p) != ".go" {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		s := source{name: rel, pkg: filepath.Dir(rel), fset: token.NewFileSet(), text: strings.Split(string(b), "\n"), tests: strings.HasSuffix(p, "_test.go")}
		s.file, err = parser.ParseFile(s.fset, p, b, parser.ParseComments)
		out = append(out, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("found %d files; this test looks in the wrong place", len(out))
	}
	return out
}

func TestImportsPointDown(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		r, ok := rules[s.pkg]
		if !ok {
			t.Errorf("%s: package %s has no rule", s.name, s.pkg)
			continue
		}
		seen[s.pkg] = true
		if s.tests {
			continue
		}
		for _, im := range s.file.Imports {
			path := strings.Trim(im.Path.Value, `"`)
			if slices.Contains(pure, s.pkg) && slices.Contains(notPure, path) {
				t.Errorf("%s: a pure package imports %s", s.name, path)
			}
			if rest, ours := strings.CutPrefix(path, module+"/"); ours {
				if !allowed(rest, r.ours) {
					t.Errorf("%s: %s may not import %s", s.name, s.pkg, path)
				}
			} else if strings.Contains(strings.Split(path, "/")[0], ".") && !allowed(path, r.others) {
				t.Errorf("%s: %s may not import %s", s.name, s.pkg, path)
			}
		}
	}
	for pkg := range rules {
		if !seen[pkg] {
			t.Errorf("there is a rule for %s, but no such package", pkg)
		}
	}
}

// allowed reports whether a path is one of the words, or below one.
func allowed(path, words string) bool {
	for w := range strings.FieldsSeq(words) {
		prefix, all := strings.CutSuffix(w, "…")
		if path == w || all && strings.HasPrefix(path, prefix) || strings.Contains(strings.Split(w, "/")[0], ".") && strings.HasPrefix(path, w+"/") {
			return true
		}
	}
	return false
}

// naming are the calls that give, change or take away the name of a file.
var naming = []string{
	"os.Create", "os.WriteFile", "os.Rename", "os.Remove", "os.RemoveAll", "os.Mkdir", "os.MkdirAll", "os.Link", "os.Symlink",
	"os.CreateTemp", "os.MkdirTemp", "os.Truncate",
}

// mayName are packages whose files are not persistent: what they make is gone with the test, the demonstration or the benchmark.
var mayName = []string{"internal/durable", "internal/testkit", "internal/testkit/guest", "internal/testkit/lab", "internal/testkit/privbus", "internal/testkit/script", "internal/bench", "internal/demo",
	"internal/demodisk", "volume/volumetest"}

func TestOnlyDurableNamesFiles(t *testing.T) {
	for _, s := range sources(t) {
		if s.tests || slices.Contains(mayName, s.pkg) {
			continue
		}
		s.calls(func(name string, line int) {
			if slices.Contains(naming, name) && !strings.Contains(s.text[line-1], "//nolint:forbidigo // ") {
				t.Errorf("%s:%d: %s; persistent names are given by internal/durable only", s.name, line, name)
			}
		})
	}
}

func TestForbidden(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg == "internal/arch" {
			continue
		}
		for i, line := range s.text {
			if strings.Contains(line, "InsecureSkipVerify") {
				t.Errorf("%s:%d: certificates are always verified", s.name, i+1)
			}
			if _, reason, ok := strings.Cut(line, "//nolint:"); ok && !strings.Contains(reason, " // ") {
				t.Errorf("%s:%d: nolint without a reason", s.name, i+1)
			}
		}
		s.calls(func(name string, line int) {
			switch {
			case s.tests:
			case name == "time.Now" && slices.Contains(pure, s.pkg):
				t.Errorf("%s:%d: a pure package has no clock", s.name, line)
			case name == "time.Sleep":
				t.Errorf("%s:%d: wait for what is to happen, with a context, not for time", s.name, line)
			}
		})
	}
}

// calls calls f for each use of a function of another package.
func (s *source) calls(f func(name string, line int)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil {
				f(id.Name+"."+sel.Sel.Name, s.fset.Position(n.Pos()).Line)
			}
		}
		return true
	})
}

func TestSizes(t *testing.T) {
	const maxFile, maxFunc = 600, 75
	for _, s := range sources(t) {
		if len(s.text) > maxFile && !s.tests || len(s.text) > 1000 {
			t.Errorf("%s has %d lines", s.name, len(s.text))
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.tests {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line; n > maxFunc {
				t.Errorf("%s: %s has %d lines", s.name, f.Name.Name, n)
			}
		}
	}
}

// TestExportedAreDocumented: what can be used can be read about.
func TestExportedAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.tests {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && receiverExported(d) {
					t.Errorf("%s: %s has no comment", s.name, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, name := range undocumented(d) {
					t.Errorf("%s: %s has no comment", s.name, name)
				}
			}
		}
	}
}

func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

// undocumented returns the exported types of a declaration without a comment. Constants and variables may share one.
func undocumented(d *ast.GenDecl) []string {
	var out []string
	for _, spec := range d.Specs {
		if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil && ts.Comment == nil {
			out = append(out, fmt.Sprintf("type %s", ts.Name.Name))
		}
	}
	return out
}

// promisePattern matches a test as docs/promises.md names it.
var promisePattern = regexp.MustCompile("`([a-z0-9/-]+): ((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestPromisesHaveTests: a promise names tests that exist.
func TestPromisesHaveTests(t *testing.T) {
	b, err := os.ReadFile("../../docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.tests {
				there[s.pkg+": "+f.Name.Name] = true
			}
		}
	}
	named := promisePattern.FindAllStringSubmatch(string(b), -1)
	if len(named) < 50 {
		t.Fatalf("found %d tests in the promises", len(named))
	}
	for _, m := range named {
		if name := m[1] + ": " + m[2]; !there[name] {
			t.Errorf("there is no test %s", name)
		}
	}
	for i, line := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| promise ") && !promisePattern.MatchString(line) {
			t.Errorf("line %d: a promise without a test", i+1)
		}
	}
}
