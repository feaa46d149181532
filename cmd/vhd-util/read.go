package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newRead(o *options) *cobra.Command {
	r := &read{options: o}
	c := &cobra.Command{
		Use: "read -n FILE", Short: "Print structures and content of a disk",
		Long: `Prints what is asked for, in this order: -p -t -b -B -m -i -e -a -j -d -r -R. -B, -m, -a, -d, -r and -R
write bytes as they are. -c says how many units, 1 when it is not given.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.run(cmd.OutOrStdout()) },
	}
	nameFlag(c, &r.name)
	f := c.Flags()
	f.BoolVarP(&r.headers, "headers", "p", false, "print footer, header, locators and batmap header")
	numberFlag(c, &r.translate, "translate", "t", "print where a sector is in the file")
	numberFlag(c, &r.entry, "entry", "b", "print where a block is in the file")
	f.BoolVarP(&r.table, "table", "B", false, "write which blocks are allocated, one bit each")
	numberFlag(c, &r.bitmap, "bitmap", "m", "write the bitmap of a block")
	numberFlag(c, &r.test, "test", "i", "print whether the file holds a sector")
	numberFlag(c, &r.extents, "extents", "e", "print the runs of sectors that the file holds, from this sector on")
	f.BoolVarP(&r.batmap, "batmap", "a", false, "write tapdisk's batmap")
	numberFlag(c, &r.full, "full", "j", "print whether the batmap calls a block full")
	numberFlag(c, &r.data, "data", "d", "write the bytes that the file has for a block")
	numberFlag(c, &r.sector, "sector", "r", "write the disk's content from this sector on")
	numberFlag(c, &r.byte, "byte", "R", "write the disk's content from this byte on")
	r.count.n = 1
	numberFlag(c, &r.count, "count", "c", "how many units")
	f.BoolVarP(&r.hex, "hex", "x", false, "print numbers in hexadecimal")
	f.BoolP("cached", "C", false, "does nothing; reads go through the system's cache in any case")
	return c
}

type read struct {
	*options
	name                                          string
	translate, entry, bitmap, test, extents, full number
	data, sector, byte, count                     number
	headers, table, batmap, hex                   bool
}

func (r *read) run(w io.Writer) error {
	d := dump{w, r.hex}
	f, err := file(r.name)
	if err != nil {
		if s, inspectErr := vhdfile.Inspect(canonical(r.name)); inspectErr == nil {
			fmt.Fprintf(w, "\n%s appears invalid; dumping headers\n\n", r.name)
			d.footer(s)
			d.header(s)
		}
		return err
	}
	defer f.Close()
	if r.headers {
		s, err := vhdfile.Inspect(f.Path)
		if err != nil {
			return err
		}
		d.all(s)
	}
	for _, part := range []struct {
		asked bool
		print func(d dump, f *vhdfile.File) error
	}{
		{r.translate.set, r.printTranslation}, {r.entry.set, r.printEntries}, {r.table, printTable}, {r.bitmap.set, r.writeBitmaps},
		{r.test.set, r.printBits}, {r.extents.set, r.printExtents}, {r.batmap, writeBatmap}, {r.full.set, r.printFull},
		{r.data.set, r.writeData}, {r.sector.set, r.writeSectors}, {r.byte.set, r.writeBytes},
	} {
		if !part.asked {
			continue
		}
		if err := part.print(d, f); err != nil {
			return err
		}
	}
	return nil
}

func beyond(what string, n, end int64) error {
	return refuse(syscall.ERANGE, nil, fmt.Sprintf("%s %d: there are %d", what, n, end), unchanged, "")
}

// sectorRange checks a range of sectors of the disk.
func (r *read) sectorRange(from int64, f *vhdfile.File) error {
	if end := sectors(f.Size()); from > end || r.count.n > end-from {
		return beyond("sector", from+r.count.n, end)
	}
	return nil
}

// blockRange yields the blocks that are asked for.
func (r *read) blockRange(from int64, f *vhdfile.File, do func(n int) error) error {
	end, _ := f.Blocks()
	if from > int64(end) || r.count.n > int64(end)-from {
		return beyond("block", from+r.count.n, int64(end))
	}
	for n := from; n < from+r.count.n; n++ {
		if err := do(int(n)); err != nil {
			return err
		}
	}
	return nil
}

func (r *read) printTranslation(d dump, f *vhdfile.File) error {
	if err := r.sectorRange(r.translate.n, f); err != nil {
		return err
	}
	_, size := f.Blocks()
	if size == 0 {
		return dynamicOnly(f)
	}
	for s := r.translate.n; s < r.translate.n+r.count.n; s++ {
		block, in := s/sectors(size), s%sectors(size)
		at, bitmap, ok, err := f.Block(int(block))
		if err != nil {
			return err
		}
		where := "not allocated"
		if ok {
			where = d.num(uint64(at + bitmap + in*image.SectorSize))
		}
		fmt.Fprintf(d.w, "logical sector %s: block number: %s, sector offset: %s, file offset: %s\n",
			d.num(uint64(s)), d.num(uint64(block)), d.num(uint64(in)), where)
	}
	return nil
}

func dynamicOnly(f *vhdfile.File) error {
	return refuse(syscall.EINVAL, nil, fmt.Sprintf("%s is %s and has no blocks", f.Path, f.Type()), unchanged, "")
}

func (r *read) printEntries(d dump, f *vhdfile.File) error {
	return r.blockRange(r.entry.n, f, func(n int) error {
		at, _, ok, err := f.Block(n)
		where := "not allocated"
		if ok {
			where = d.num(uint64(at))
		}
		if err == nil {
			_, err = fmt.Fprintf(d.w, "block: %s: offset: %s\n", d.num(uint64(n)), where)
		}
		return err
	})
}

// printTable writes a bit for each whole block of the disk, as the original does.
func printTable(d dump, f *vhdfile.File) error {
	_, size := f.Blocks()
	if size == 0 {
		return dynamicOnly(f)
	}
	n := int(f.Size() / size)
	b := make([]byte, (n+7)/8)
	for i := range n {
		if f.Allocated(i) {
			b[i/8] |= 0x80 >> (i % 8)
		}
	}
	_, err := d.w.Write(b)
	return err
}

func (r *read) writeBitmaps(d dump, f *vhdfile.File) error {
	return r.blockRange(r.bitmap.n, f, func(n int) error {
		b, err := f.Bitmap(n)
		if err == nil && b == nil {
			_, err = fmt.Fprintf(d.w, "block %s not allocated\n", d.num(uint64(n)))
		} else if err == nil {
			_, err = d.w.Write(b)
		}
		return err
	})
}

func (r *read) printBits(d dump, f *vhdfile.File) error {
	if err := r.sectorRange(r.test.n, f); err != nil {
		return err
	}
	_, size := f.Blocks()
	if size == 0 {
		return dynamicOnly(f)
	}
	for s := r.test.n; s < r.test.n+r.count.n; s++ {
		bit := 0
		for range f.Runs(s, 1) {
			bit = 1
		}
		fmt.Fprintf(d.w, "block %s: sec: %s: %d\n", d.num(uint64(s/sectors(size))), d.num(uint64(s%sectors(size))), bit)
	}
	return nil
}

func (r *read) printExtents(d dump, f *vhdfile.File) error {
	if err := r.sectorRange(r.extents.n, f); err != nil {
		return err
	}
	for run, err := range f.Runs(r.extents.n, r.count.n) {
		if err != nil {
			return err
		}
		fmt.Fprintf(d.w, "%s %s\n", d.num(uint64(run.Start)), d.num(uint64(run.Count)))
	}
	return nil
}

func batmapOf(f *vhdfile.File) (*vhdfile.Batmap, error) {
	s, err := vhdfile.Inspect(f.Path)
	if err != nil {
		return nil, err
	}
	if s.Batmap == nil {
		return nil, refuse(syscall.EINVAL, nil, f.Path+" has no batmap", unchanged, "only tapdisk's tools make disks with one; nothing needs it")
	}
	return s.Batmap, s.Batmap.Err()
}

func writeBatmap(d dump, f *vhdfile.File) error {
	m, err := batmapOf(f)
	if err == nil {
		_, err = d.w.Write(m.Map)
	}
	return err
}

func (r *read) printFull(d dump, f *vhdfile.File) error {
	m, err := batmapOf(f)
	if err != nil {
		return err
	}
	return r.blockRange(r.full.n, f, func(n int) error {
		bit := 0
		if m.Full(int64(n)) {
			bit = 1
		}
		_, err := fmt.Fprintf(d.w, "batmap for block %s: %d\n", d.num(uint64(n)), bit)
		return err
	})
}

func (r *read) writeData(d dump, f *vhdfile.File) error {
	return r.blockRange(r.data.n, f, func(n int) error {
		at, bitmap, ok, err := f.Block(n)
		if err != nil {
			return err
		}
		if !ok {
			_, err := fmt.Fprintf(d.w, "block %s not allocated\n", d.num(uint64(n)))
			return err
		}
		_, size := f.Blocks()
		_, err = io.Copy(d.w, io.NewSectionReader(f.Reader(), at+bitmap, size))
		return err
	})
}

func (r *read) writeSectors(d dump, f *vhdfile.File) error {
	if err := r.sectorRange(r.sector.n, f); err != nil {
		return err
	}
	return r.writeContent(d.w, f, r.sector.n*image.SectorSize, r.count.n*image.SectorSize)
}

func (r *read) writeBytes(d dump, f *vhdfile.File) error {
	if r.byte.n > f.Size() || r.count.n > f.Size()-r.byte.n {
		return beyond("byte", r.byte.n, f.Size())
	}
	return r.writeContent(d.w, f, r.byte.n, r.count.n)
}

// writeContent writes a range of the disk, through its parents.
func (r *read) writeContent(w io.Writer, f *vhdfile.File, off, n int64) (err error) {
	c, err := vhdfile.OpenChain(f.Path, r.lookup(r.name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m := meter()
	defer m.Done()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, &told{io.LimitReader(vhd.NewReader(c, off), n), 0, n, show(m, "read")}, make([]byte, mega))
	return err
}

// told is a reader that tells how far it is.
type told struct {
	io.Reader
	done, total int64
	tell        func(done, total int64)
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.done += int64(n)
	t.tell(t.done, t.total)
	return n, err
}
