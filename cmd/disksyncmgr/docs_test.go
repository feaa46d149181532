package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"disksync/internal/problem"
)

const root = "../.."

// cliDoc returns docs/cli.md.
func cliDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	flagInHelp = regexp.MustCompile(`(?m)^\s+(?:-(\w), )?\s*--([a-z-]+)`)
	flagInDoc  = regexp.MustCompile("`--([a-z-]+)")
	subcommand = regexp.MustCompile(`(?m)^  ([a-z-]+) `)
)

// section returns what the document says below a heading, up to the next one.
func section(doc, heading string) (string, bool) {
	_, text, ok := strings.Cut(doc, "\n"+heading+"\n")
	text, _, _ = strings.Cut(text, "\n#")
	return text, ok
}

// TestCommandsAreDocumented compares docs/cli.md with what the programs say of themselves: each command and each flag is there,
// and no others.
func TestCommandsAreDocumented(t *testing.T) {
	doc := cliDoc(t)
	n := 0
	var walk func(words ...string)
	walk = func(words ...string) {
		n++
		out, err := exec.Command(shipped.Path(t, words[0]), append(words[1:], "--help")...).Output()
		if err != nil {
			t.Fatalf("%v --help: %v", words, err)
		}
		help := string(out)
		_, rest, _ := strings.Cut(help, "Usage:\n")
		own, _, _ := strings.Cut(rest, "Global Flags:")
		_, own, _ = strings.Cut(own, "Flags:")
		heading := strings.Join(words, " ")
		if len(words) > 1 {
			usage, _, _ := strings.Cut(rest, "\n")
			heading = strings.TrimSuffix(strings.TrimSpace(usage), " [flags]")
		}
		checkFlags(t, "### `"+heading+"`", own, doc)
		_, subs, _ := strings.Cut(help, "Available Commands:\n")
		subs, _, _ = strings.Cut(subs, "\n\n")
		for _, m := range subcommand.FindAllStringSubmatch(subs, -1) {
			if m[1] != "help" {
				walk(append(slices.Clone(words), m[1])...)
			}
		}
	}
	walk("disksyncmgr")
	walk("synchronizer")
	if headings := strings.Count(doc, "\n### `"); n < 40 || headings != n {
		t.Errorf("there are %d commands, and %d are described", n, headings)
	}
	out, err := exec.Command(shipped.Path(t, "xec"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, options, _ := strings.Cut(string(out), "Options come first")
	checkFlags(t, "## xec", options, doc)
}

func checkFlags(t *testing.T, heading, help, doc string) {
	t.Helper()
	text, ok := section(doc, heading)
	if !ok {
		t.Errorf("docs/cli.md has no section %q", heading)
		return
	}
	there := map[string]bool{"help": true}
	for _, m := range flagInHelp.FindAllStringSubmatch(help, -1) {
		there[m[2]] = true
		if m[2] != "help" && !strings.Contains(text, "`--"+m[2]) {
			t.Errorf("%q does not name --%s", heading, m[2])
		}
		if m[1] != "" && m[2] != "help" && !strings.Contains(text, "`-"+m[1]+"`") {
			t.Errorf("%q does not name -%s", heading, m[1])
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "- ") {
			continue
		}
		names, _, _ := strings.Cut(line, ": ")
		for _, m := range flagInDoc.FindAllStringSubmatch(names, -1) {
			if !there[m[1]] {
				t.Errorf("%q names --%s, which is not there", heading, m[1])
			}
		}
	}
}

// TestCodesAreDocumented: docs/cli.md has each problem code that the programs can give, with an exit status that the code has,
// and no others.
func TestCodesAreDocumented(t *testing.T) {
	given := codes(t)
	described := map[string]bool{}
	pairs := 0
	for _, m := range regexp.MustCompile("(?m)^\\| `(DS-[A-Z-]+)` \\| ([0-9]+) \\| .+ \\| .+ \\|$").FindAllStringSubmatch(cliDoc(t), -1) {
		if described[m[1]] {
			t.Errorf("%s is described twice", m[1])
		}
		described[m[1]] = true
		status, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		with := given[m[1]]
		pairs += len(with)
		if len(with) > 0 && !slices.Contains(with, problem.Exit(status)) {
			t.Errorf("%s has the exit statuses %v, not %d", m[1], with, status)
		}
	}
	if len(given) < 50 || pairs < len(given) {
		t.Fatalf("found only the codes %v, with %d exit statuses", slices.Sorted(maps.Keys(given)), pairs)
	}
	for code := range given {
		if !described[code] {
			t.Errorf("docs/cli.md does not describe %s", code)
		}
	}
	for code := range described {
		if _, ok := given[code]; !ok {
			t.Errorf("docs/cli.md describes %s, which nothing gives", code)
		}
	}
}

// TestCodesAreMade: each problem code is met by a test or a script other than this one.
func TestCodesAreMade(t *testing.T) {
	var met strings.Builder
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(name) == "docs_test.go" {
			return err
		}
		if !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".txtar") {
			return nil
		}
		b, err := os.ReadFile(name)
		met.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all := met.String()
	for code := range codes(t) {
		if !regexp.MustCompile(regexp.QuoteMeta(code) + "([^A-Z-]|$)").MatchString(all) {
			t.Errorf("no test makes %s", code)
		}
	}
}

// exitNames are the names that the sources have for exit statuses.
var exitNames = map[string]problem.Exit{
	"Failure": problem.Failure, "Usage": problem.Usage, "NeedsLogin": problem.NeedsLogin, "Unreachable": problem.Unreachable,
	"NoSpace": problem.NoSpace, "Untrusted": problem.Untrusted, "Damaged": problem.Damaged, "NotFound": problem.NotFound,
	"Busy": problem.Busy, "Interrupted": problem.Interrupted,
}

// codes returns the problem codes in the sources of the programs, with the exit statuses that stand beside them.
func codes(t *testing.T) map[string][]problem.Exit {
	t.Helper()
	form := regexp.MustCompile(`^DS-[A-Z-]+$`)
	found := map[string][]problem.Exit{}
	note := func(list []ast.Expr) {
		for i, e := range list {
			lit, ok := e.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				continue
			}
			code, err := strconv.Unquote(lit.Value)
			if err != nil || !form.MatchString(code) {
				continue
			}
			statuses := found[code]
			if i+1 < len(list) {
				if sel, ok := list[i+1].(*ast.SelectorExpr); ok && exitNames[sel.Sel.Name] != 0 {
					statuses = append(statuses, exitNames[sel.Sel.Name])
				}
			}
			found[code] = statuses
		}
	}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || name != root && strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				note(n.Args)
			case *ast.CompositeLit:
				note(n.Elts)
			case *ast.AssignStmt:
				note(n.Rhs)
			case *ast.ValueSpec:
				note(n.Values)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestJSONIsDocumented: docs/cli.md has each name that the scripts saw in the programs' JSON.
func TestJSONIsDocumented(t *testing.T) {
	_, doc, ok := strings.Cut(cliDoc(t), "\n## JSON\n")
	doc, _, _ = strings.Cut(doc, "\n## ")
	var files []string
	for _, pattern := range []string{"testdata/*/*.txtar", "../synchronizer/testdata/*.txtar"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("no scripts like %s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	n := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^shape (\S+)$`).FindAllStringSubmatch(string(b), -1) {
			_, shape, there := strings.Cut(string(b), "\n-- "+m[1]+" --\n")
			if !there {
				t.Fatalf("%s has no %s", file, m[1])
			}
			shape, _, _ = strings.Cut(shape, "\n-- ")
			for line := range strings.Lines(shape) {
				path, _, _ := strings.Cut(line, " ")
				name := strings.TrimRight(path[strings.LastIndex(path, ".")+1:], "[]")
				if name == "" {
					continue
				}
				n++
				if !ok || !strings.Contains(doc, "`"+name+"`") {
					t.Errorf("%s, %s: docs/cli.md does not name %q", file, m[1], name)
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d names were looked for", n)
	}
}
