package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"disksync/internal/problem"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newScan(o *options) *cobra.Command {
	s := &scan{options: o}
	c := &cobra.Command{
		Use: "scan [FILE...]", Short: "List disks, or draw the tree of them",
		Long: `Prints a line for each disk:

  vhd=NAME capacity=BYTES size=BYTES hidden=0|1 parent=NAME|none

and for one that cannot be read vhd=NAME scan-error=NUMBER error-message='TEXT'; without -c that is the last
line. With -l the disks are volumes of a group, also inactive ones, which are read from the devices that
the group is on.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, args) },
	}
	f := c.Flags()
	f.StringVarP(&s.filter, "match", "m", "", "scan what this `pattern` matches; with {a,b} for alternatives")
	f.BoolVarP(&s.fast, "fast", "f", false, "print the parent as the file names it, without looking for it")
	f.BoolVarP(&s.noFail, "continue", "c", false, "go on after errors, and exit with 0")
	f.StringVarP(&s.group, "volumes", "l", "", "scan volumes of this LVM `group`")
	f.BoolVarP(&s.pretty, "pretty", "p", false, "draw the tree")
	f.BoolVarP(&s.withParents, "add-parents", "a", false, "scan the parents too")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "print whole paths")
	f.BoolVarP(&s.markers, "markers", "M", false, "print markers and hashes of keys too")
	f.BoolVar(&s.asJSON, "json", false, "print as JSON")
	return c
}

type scan struct {
	*options
	filter, group                         string
	fast, noFail, pretty                  bool
	withParents, verbose, markers, asJSON bool
	volumes                               *volumes // nil: files are scanned
}

// target is something to scan.
type target struct {
	name string
	raw  bool
}

// scanned is what is known of a disk.
type scanned struct {
	Name     string `json:"vhd"`
	Capacity int64  `json:"capacity"`
	Size     int64  `json:"size"`
	Hidden   uint8  `json:"hidden"`
	Marker   uint8  `json:"marker"`
	KeyHash  string `json:"keyhash,omitempty"`
	Parent   string `json:"parent,omitempty"`
	Error    int    `json:"error,omitempty"` // errno
	Message  string `json:"message,omitempty"`

	parentPath string // where the parent is, when that is known; for -a
	parentRaw  bool
	err        error
	children   []*scanned
	placed     bool // in the tree
}

func (s *scan) run(cmd *cobra.Command, args []string) error {
	if s.filter == "" && len(args) == 0 {
		return usage("name files, or a pattern with -m")
	}
	if s.pretty {
		s.fast = false
	}
	targets, err := s.find(args)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	list, err := s.all(w, targets)
	switch {
	case s.asJSON:
		if jsonErr := printScanned(w, list); jsonErr != nil {
			return jsonErr
		}
	case s.pretty:
		s.drawAll(w, list)
	}
	if s.noFail {
		return nil
	}
	return err
}

// find lists what is to be scanned.
func (s *scan) find(args []string) ([]target, error) {
	var patterns []string
	if s.filter != "" {
		patterns = alternatives(s.filter)
	}
	if s.group != "" {
		v, err := readVolumes(s.group)
		if err != nil {
			return nil, err
		}
		s.volumes = v
		return v.match(append(patterns, args...))
	}
	var out []target
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil {
			return nil, usage("%s: %v", p, err)
		}
		for _, n := range names {
			if !strings.HasPrefix(filepath.Base(n), ".") || strings.HasPrefix(filepath.Base(p), ".") {
				out = append(out, target{name: n})
			}
		}
	}
	for _, a := range args {
		out = append(out, target{name: a})
	}
	return out, nil
}

// alternatives writes a pattern with {a,b} out, as shells do.
func alternatives(p string) []string {
	open := strings.Index(p, "{")
	if open < 0 {
		return []string{p}
	}
	depth, start := 0, open+1
	var middle []string
	for i := open; i < len(p); i++ {
		switch p[i] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth == 0 || depth == 1 && p[i] == ',' {
			middle = append(middle, p[start:i])
			start = i + 1
		}
		if depth > 0 {
			continue
		}
		var out []string
		for _, m := range middle {
			out = append(out, alternatives(p[:open]+m+p[i+1:])...)
		}
		return out
	}
	return []string{p}
}

// all scans the targets, and with -a their parents. Lines of a list are printed as they come, so that a large folder shows signs
// of life.
func (s *scan) all(w io.Writer, targets []target) ([]*scanned, error) {
	var list []*scanned
	var first error
	seen := map[string]bool{}
	for _, t := range targets {
		seen[filepath.Base(t.name)] = true
	}
	for i := 0; i < len(targets); i++ {
		x := s.one(targets[i])
		list = append(list, x)
		if !s.asJSON && (!s.pretty || x.err != nil) {
			s.print(w, x, 0, "")
		}
		if s.withParents && x.parentPath != "" && !seen[filepath.Base(x.parentPath)] {
			seen[filepath.Base(x.parentPath)] = true
			targets = append(targets, target{x.parentPath, x.parentRaw})
		}
		if x.err == nil {
			continue
		}
		if first == nil {
			first = x.err
		}
		if !s.noFail {
			break
		}
	}
	return list, first
}

// one scans one target.
func (s *scan) one(t target) *scanned {
	if s.volumes != nil {
		return s.volumes.scan(t, s.markers)
	}
	x := &scanned{Name: t.name}
	if s.pretty {
		x.Name = canonical(t.name)
	}
	st, err := os.Stat(t.name)
	if err != nil {
		return x.fail(err, "failure scanning target")
	}
	if st.Mode().IsRegular() {
		x.Size = st.Size()
	}
	if t.raw {
		x.Capacity, x.Hidden = x.Size, 1
		return x
	}
	f, err := file(t.name)
	if err != nil {
		return x.fail(err, "opening file")
	}
	defer f.Close()
	x.Capacity, x.Hidden = f.Size(), f.Footer().Hidden
	if s.markers {
		if err := x.mark(f.Path); err != nil {
			return x.fail(err, "checking markers")
		}
	}
	if f.Type() == vhd.Differencing {
		s.findParent(x, f)
	}
	return x
}

// fail notes why a disk cannot be read.
func (x *scanned) fail(err error, message string) *scanned {
	x.err, x.Message = fmt.Errorf("%s: %w", x.Name, err), message
	x.Error = int(problem.Of(explain(err)).Exit)
	return x
}

func (x *scanned) mark(name string) error {
	s, err := vhdfile.Inspect(name)
	if err != nil {
		return err
	}
	if x.marks(s); s.Batmap == nil {
		x.Marker, err = vhdfile.Marker(name)
	}
	return err
}

// marks takes the marks that the batmap's header holds.
func (x *scanned) marks(s *vhdfile.Structures) {
	if s.Batmap == nil {
		return
	}
	if x.Marker = s.Batmap.Marker; s.Batmap.Keyed {
		x.KeyHash = fmt.Sprintf("%x", s.Batmap.Hash)
	}
}

// findParent tells where the parent is; when it is not there, where the file says that it is.
func (s *scan) findParent(x *scanned, f *vhdfile.File) {
	h, _ := f.Header()
	if !s.fast || s.withParents {
		if at, raw, err := f.Parent(s.lookup(x.Name)); err == nil {
			x.parentPath, x.parentRaw = canonical(at), raw
			x.Parent = x.parentPath
		}
	}
	if s.fast && h.ParentName != "" {
		x.Parent = h.ParentName
	}
	if paths := f.ParentPaths(); x.Parent == "" && len(paths) > 0 {
		x.Parent = paths[0]
	}
	if x.Parent == "" {
		x.Parent = h.ParentName
	}
}

func (s *scan) print(w io.Writer, x *scanned, indent int, remark string) {
	fmt.Fprint(w, strings.Repeat(" ", indent))
	if x.err != nil {
		fmt.Fprintf(w, "vhd=%s scan-error=-%d error-message='%s'\n", problem.Printable(x.Name), x.Error, x.Message)
		return
	}
	name, parent := x.Name, "none"
	if x.Parent != "" {
		parent = x.Parent
	}
	if !s.verbose {
		name, parent = filepath.Base(name), filepath.Base(parent)
	}
	marks := ""
	if s.markers {
		marks = fmt.Sprintf("marker=%d keyhash=%s ", x.Marker, x.KeyHash)
	}
	fmt.Fprintf(w, "vhd=%s capacity=%d size=%d hidden=%d %sparent=%s%s\n",
		problem.Printable(name), x.Capacity, x.Size, x.Hidden, marks, problem.Printable(parent), remark)
}
