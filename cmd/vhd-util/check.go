package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newCheck(o *options) *cobra.Command {
	k := &check{options: o}
	c := &cobra.Command{
		Use: "check -n FILE", Short: "Tell everything that is wrong with a disk",
		Long: `Looks at the whole structure of the file, and at its parent. Prints "FILE is valid", or every finding and
exits with 22. Findings are "damage", where content is lost or in doubt, "warning", where it is whole, or
"note"; notes do not make a disk invalid and are printed with --notes only.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return k.run(cmd.OutOrStdout()) },
	}
	nameFlag(c, &k.name)
	f := c.Flags()
	f.BoolVarP(&k.noFooter, "ignore-footer", "i", false, "a missing or damaged footer at the end does not matter")
	f.BoolVarP(&k.noUUID, "ignore-parent-uuid", "I", false, "the parent's uuid does not matter")
	f.BoolVarP(&k.noTime, "ignore-timestamps", "t", false, "times in the future do not matter")
	f.BoolVarP(&k.withParents, "check-parents", "p", false, "check the parents as well")
	f.BoolVarP(&k.bitmaps, "bitmaps", "b", false, "look into every block too")
	f.BoolVarP(&k.noOverlap, "no-overlap", "B", false, "accepted, not with -b or -s; the look for overlapping blocks takes no time here")
	f.BoolVarP(&k.stats, "stats", "s", false, "print how much is allocated and written instead; with -p how much each disk adds")
	f.BoolVar(&k.notes, "notes", false, "print notes as well")
	f.BoolVar(&k.asJSON, "json", false, "print the findings as JSON")
	return c
}

type check struct {
	*options
	name                                   string
	noFooter, noUUID, noTime               bool
	withParents, bitmaps, noOverlap, stats bool
	notes, asJSON                          bool
}

// verdict is what the check of one file found.
type verdict struct {
	File     string    `json:"file"`
	Valid    bool      `json:"valid"`
	Findings []finding `json:"findings"`
	Omitted  int       `json:"omitted,omitempty"`
	Lost     []lost    `json:"lost,omitempty"`
}

type finding struct {
	Severity   string `json:"severity"`
	Text       string `json:"text"`
	Offset     int64  `json:"offset"` // in the file; -1: it has no place
	Repairable bool   `json:"repairable"`
	Ignored    bool   `json:"ignored,omitempty"`
}

type lost struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

func (k *check) run(w io.Writer) error {
	if k.noOverlap && (k.bitmaps || k.stats) {
		return usage("-B does not go with -b or -s")
	}
	files, paths, err := k.collect()
	defer files.close()
	if err != nil {
		return err
	}
	o := vhd.CheckOptions{Bitmaps: k.bitmaps, Data: k.bitmaps, Now: now()}
	reports, err := files.check(o, k.withParents)
	if err != nil {
		return err
	}
	bad := ""
	var verdicts []verdict
	for i, rep := range reports {
		v := k.judge(paths[i], rep)
		if !v.Valid && bad == "" {
			bad = v.File
		}
		verdicts = append(verdicts, v)
	}
	if err := k.print(w, verdicts); err != nil {
		return err
	}
	if bad != "" {
		return refuse(syscall.EINVAL, files.missing, bad+" is not valid", "nothing was changed by looking", next(verdicts))
	}
	if n := len(reports); k.stats {
		if files.chain[n-1].Raw {
			n-- // it has no bitmaps to count
		}
		return printStats(w, paths[:n])
	}
	return nil
}

// next says what can be done about the findings.
func next(verdicts []verdict) string {
	hint := "\"vhd-util repair\" can mend this"
	for _, v := range verdicts {
		for _, f := range v.Findings {
			if !f.Repairable && !f.Ignored && f.Severity != vhd.Note.String() {
				hint = ""
			}
		}
	}
	if hint == "" {
		return "what the disk lost, no tool can bring back; take another copy where there is one"
	}
	return hint
}

// opened are the files of a chain that is checked.
type opened struct {
	chain   []vhd.ChainFile
	files   []*os.File
	missing error // why the parent of the last one is not there
}

func (o *opened) close() {
	for _, f := range o.files {
		f.Close()
	}
}

func (o *opened) add(name string, raw bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	o.files = append(o.files, f)
	size, err := vhdfile.Size(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	o.chain = append(o.chain, vhd.ChainFile{R: f, Size: size, Raw: raw, Modified: vhd.TimestampOf(st.ModTime())})
	return nil
}

// collect opens the file and its parent, with -p all of its parents. What does not open as a disk is checked all the same; that a
// parent is missing is a finding.
func (k *check) collect() (*opened, []string, error) {
	files := &opened{}
	paths := []string{k.name}
	name, raw := canonical(k.name), false
	for {
		if err := files.add(name, raw); err != nil {
			return files, nil, err
		}
		if raw || len(paths) > 1 && !k.withParents || len(paths) > vhd.MaxDepth {
			return files, paths, nil
		}
		f, err := vhdfile.OpenFile(name, vhd.Salvage())
		if err != nil || f.Type() != vhd.Differencing {
			if err == nil {
				f.Close()
			}
			return files, paths, nil
		}
		name, raw, err = f.Parent(k.lookup(k.name))
		f.Close()
		if err != nil {
			files.missing = err
			return files, paths, nil
		}
		paths = append(paths, name)
	}
}

// check checks the first file, or all of them. That a parent is missing or damaged is a finding of its child.
func (o *opened) check(c vhd.CheckOptions, all bool) ([]*vhd.Report, error) {
	if all {
		return vhd.CheckChain(o.chain, c)
	}
	var bad *vhd.Error
	if o.missing != nil {
		bad = &vhd.Error{Fault: vhd.NoParent, Offset: -1}
	}
	if len(o.chain) > 1 {
		p := o.chain[1]
		c.ParentModified = p.Modified
		var err error
		if c.Parent = vhd.Raw(p.R, p.Size); !p.Raw {
			if c.Parent, err = vhd.Open(p.R, p.Size); err != nil {
				c.Parent, bad = nil, &vhd.Error{Fault: vhd.BadParent, Offset: -1, Detail: err.Error()}
			}
		}
	}
	rep, err := vhd.Check(o.chain[0].R, o.chain[0].Size, c)
	if err != nil {
		return nil, err
	}
	if bad != nil {
		rep.Findings = append(rep.Findings, bad)
	}
	return []*vhd.Report{rep}, nil
}

// judge turns a report into a verdict.
func (k *check) judge(name string, rep *vhd.Report) verdict {
	v := verdict{File: name, Valid: true, Findings: []finding{}, Omitted: rep.Omitted}
	for _, e := range rep.Findings {
		f := finding{
			Severity: e.Fault.Severity().String(), Text: e.Error(), Offset: e.Offset, Repairable: e.Fault.Repairable(), Ignored: k.ignores(e),
		}
		serious := e.Fault.Severity() != vhd.Note || errors.Is(e, vhd.FutureTimestamp)
		if serious && !f.Ignored && !errors.Is(e, vhd.Encrypted) {
			v.Valid = false
		}
		v.Findings = append(v.Findings, f)
	}
	for _, l := range rep.Lost {
		v.Lost = append(v.Lost, lost{l.Offset, l.Length})
	}
	return v
}

func (k *check) ignores(e *vhd.Error) bool {
	footer := errors.Is(e, vhd.EndFooterMissing) || errors.Is(e, vhd.EndFooterDamaged) || errors.Is(e, vhd.CopyDiffers)
	return k.noFooter && footer || k.noUUID && errors.Is(e, vhd.WrongParent) || k.noTime && errors.Is(e, vhd.FutureTimestamp)
}

func (k *check) print(w io.Writer, verdicts []verdict) error {
	if k.asJSON {
		return cli.JSON(w, verdicts)
	}
	for _, v := range verdicts {
		for _, f := range v.Findings {
			if f.Severity == vhd.Note.String() && !k.notes && v.Valid {
				continue
			}
			ignored := ""
			if f.Ignored {
				ignored = " (ignored)"
			}
			fmt.Fprintf(w, "%s: %s: %s%s\n", filepath.Base(v.File), f.Severity, f.Text, ignored)
		}
		if v.Omitted > 0 {
			fmt.Fprintf(w, "%s: and %d more\n", filepath.Base(v.File), v.Omitted)
		}
		for _, l := range v.Lost {
			fmt.Fprintf(w, "%s: lost: %d bytes of the disk at %d\n", filepath.Base(v.File), l.Length, l.Offset)
		}
		if v.Valid && !k.stats {
			fmt.Fprintf(w, "%s is valid\n", v.File)
		}
	}
	return nil
}
