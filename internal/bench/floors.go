package main

import (
	"context"
	"path/filepath"
	"strings"
)

var deployWords = []string{
	"disksync takes a new laptop from nothing to a VM of version 1 whose base is on the disk, synced, read back and compared. " +
		"The other rows are parts of that work, or programs that do a part of it, on the same disk: nothing that does the whole can be " +
		"faster than the slowest of the parts. Where the processor time of unpacking and SHA-256 together, shared among the cores, is " +
		"more than that, this is the least time that there can be.",
	"The stick is a folder on the same disk, so reading and writing compete; a real stick is slower.",
}

// floors measures the parts of a deployment, with the disk that was installed: the file exported.
func (b *bench) floors(ctx context.Context, t *table) error {
	b.say("parts of a deployment")
	files, err := filepath.Glob(b.at(filepath.Join(mediumDir, "*")))
	if err != nil {
		return err
	}
	var medium []string
	for _, f := range files {
		medium = append(medium, b.short(f))
	}
	image := medium[0] // the layer; the manifest comes behind it
	const made = "floor.raw"
	ours := func(args ...string) command { return command{program: b.self, args: append([]string{asPart}, args...)} }
	other := func(program, args string) command { return command{program: program, args: strings.Fields(args)} }
	packing := []command{
		other("zstd", "-3 -T0 -q -f "+exported+" -o floor.zst"),
		other("qemu-img", "convert -c -O qcow2 -o compression_type=zstd "+exported+" floor.qcow2"),
	}
	for _, c := range packing {
		if !b.plays(c.program) {
			continue
		}
		if _, err := b.run(ctx, c); err != nil {
			return err
		}
	}
	if err := readOrForget(files, true); err != nil {
		return err
	}
	for _, f := range []struct {
		name  string
		c     command
		whole bool // more than a part
	}{
		{"reading the stick's files from the disk", ours(append([]string{partRead}, medium...)...), false},
		{"unpacking the stick's frames, all cores", ours(partUnpack, image), false},
		{"SHA-256 of as many blocks, all cores", ours(partHash, image), false},
		{"writing as many blocks straight to the disk", writes(ours(partWrite, image, made), made), false},
		{"sha256sum of the disk, one core, with its holes", other("sha256sum", exported), true},
		{"zstd -d, and waiting for the disk", writes(other("zstd", "-d -q -f floor.zst -o "+made), made), true},
		{"qemu-img convert, qcow2 with zstd to raw, and waiting for the disk", writes(other("qemu-img", "convert -O raw floor.qcow2 "+made), made), true},
	} {
		if f.whole && !b.plays(f.c.program) {
			continue
		}
		r := t.row(f.name)
		r.floor, r.partly = !f.whole, true
		s, err := b.run(ctx, f.c)
		if err != nil {
			return err
		}
		r.add(result{update: s})
		if err := b.remove(made); err != nil {
			return err
		}
	}
	return b.remove("floor.zst", "floor.qcow2")
}

// writes says what a command makes that must be on the disk.
func writes(c command, made string) command {
	c.makes = []string{made}
	return c
}
