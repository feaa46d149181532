package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/internal/problem"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newQuery(o *options) *cobra.Command {
	q := &query{options: o}
	c := &cobra.Command{
		Use: "query -n FILE", Short: "Print properties of a disk",
		Long: "Prints what is asked for, one line each, always in this order: -v -s -p -f -m -d -a -S.",
		RunE: func(cmd *cobra.Command, _ []string) error { return q.run(cmd.OutOrStdout()) },
	}
	nameFlag(c, &q.name)
	f := c.Flags()
	f.BoolVarP(&q.virtual, "virtual", "v", false, "the disk's size, in MiB")
	f.BoolVarP(&q.physical, "physical", "s", false, "how much the disk takes in its file, in bytes")
	f.BoolVarP(&q.parent, "parent", "p", false, "the parent's path, or that there is none")
	f.BoolVarP(&q.fields, "fields", "f", false, "tapdisk's hidden field")
	f.BoolVarP(&q.marker, "marker", "m", false, "tapdisk's marker")
	f.BoolVarP(&q.depth, "depth", "d", false, "the number of disks in the chain")
	f.BoolVarP(&q.allocated, "allocated", "a", false, "the number of blocks that the file holds")
	f.BoolVarP(&q.fast, "fast", "S", false, "the size that the disk can grow to with \"resize -f\", in MiB")
	f.BoolVarP(&q.unresolved, "unresolved", "u", false, "print the parent's path as the file has it")
	return c
}

type query struct {
	*options
	name                                                        string
	virtual, physical, parent, fields, marker, depth, allocated bool
	fast, unresolved                                            bool
}

// run prints everything that can be printed; the first error counts.
func (q *query) run(w io.Writer) error {
	f, err := file(q.name)
	if err != nil {
		return err
	}
	defer f.Close()
	if q.virtual {
		fmt.Fprintln(w, f.Size()/mega)
	}
	var first error
	for _, ask := range []struct {
		asked  bool
		answer func(w io.Writer, f *vhdfile.File) error
	}{
		{q.physical, printPhysical}, {q.parent, q.printParent}, {q.fields, printHidden}, {q.marker, printMarker},
		{q.depth, q.printDepth}, {q.allocated, printAllocated}, {q.fast, printFast},
	} {
		if !ask.asked {
			continue
		}
		if err := ask.answer(w, f); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func printPhysical(w io.Writer, f *vhdfile.File) error {
	n, err := f.PhysicalSize()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, n)
	return err
}

func (q *query) printParent(w io.Writer, f *vhdfile.File) error {
	if f.Type() != vhd.Differencing {
		fmt.Fprintf(w, "%s has no parent\n", q.name)
		return nil
	}
	if paths := f.ParentPaths(); q.unresolved && len(paths) > 0 {
		fmt.Fprintln(w, problem.Printable(paths[0]))
		return nil
	}
	at, _, err := f.Parent(q.lookup(q.name))
	if err != nil {
		fmt.Fprintln(w, "query failed")
		return fmt.Errorf("parent of %s: %w", q.name, err)
	}
	fmt.Fprintln(w, canonical(at))
	return nil
}

func printHidden(w io.Writer, f *vhdfile.File) error {
	_, err := fmt.Fprintf(w, "hidden: %d\n", f.Footer().Hidden)
	return err
}

func printMarker(w io.Writer, f *vhdfile.File) error {
	m, err := vhdfile.Marker(f.Path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "marker: %d\n", m)
	return err
}

func (q *query) printDepth(w io.Writer, f *vhdfile.File) error {
	c, err := vhdfile.OpenChain(f.Path, q.lookup(q.name))
	if err != nil {
		number := syscall.EINVAL
		if errors.Is(err, vhd.NoParent) {
			number = syscall.ENOENT
		}
		fmt.Fprintf(w, "error checking chain depth: -%d\n", number)
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(w, "chain depth: %d\n", len(c.Members()))
	return err
}

func printAllocated(w io.Writer, f *vhdfile.File) error {
	if f.Type() == vhd.Fixed {
		return refuse(syscall.EINVAL, nil, "a fixed disk has no blocks", unchanged, "")
	}
	_, err := fmt.Fprintln(w, f.AllocatedBlocks())
	return err
}

func printFast(w io.Writer, f *vhdfile.File) error {
	n, size := f.Blocks()
	_, err := fmt.Fprintln(w, int64(n)*size/mega)
	return err
}
