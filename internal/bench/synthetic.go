package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"disksync/internal/progress"
)

// A change is a disk that is made here, and what happens to it.
type change struct {
	name, title string
	about       string
	ext3        bool // the disk begins as ext3
	thorough    bool // it is worth while to have the slowest packers too
	make        func(m *maker, ctx context.Context, disk string) error
}

// changes are the cases. The disks come from a fixed seed.
func changes() []change {
	return []change{
		{name: "byte", title: "One byte", make: (*maker).oneByte,
			about: "One byte in the middle of a file is another one."},
		{name: "clusters", title: "5 % of the clusters", thorough: true, make: (*maker).clusters,
			about: "5 % of a file's clusters of 4 KiB, chosen at random, are written anew, every other one with random bytes, the rest with text."},
		{name: "moved", title: "A moved file", thorough: true, make: (*maker).moved,
			about: "A file is copied inside the file system and the original deleted, so that all of it is elsewhere; where it was, its " +
				"bytes are still there in free space."},
		{name: "grown", title: "A larger disk", make: (*maker).grown,
			about: "The disk grows by half, and its file system with `resize2fs`."},
		{name: "upgraded", title: "A file system is upgraded in place", ext3: true, make: (*maker).upgraded,
			about: "ext3 becomes ext4 with check sums, sorted folders and 64-bit structures, by `tune2fs`, `e2fsck -fyD` and `resize2fs -b`."},
	}
}

// fsTools make file systems.
var fsTools = []string{"mkfs.ext4", "mkfs.ext3", "debugfs", "tune2fs", "e2fsck", "resize2fs"}

// synthetic compares with disks that are made here.
func (b *bench) synthetic(ctx context.Context) error {
	for _, t := range fsTools {
		if !installed(t) {
			b.table(noTable, "Changes made on purpose", "Left out: "+t+" is not installed here.")
			return nil
		}
	}
	m := &maker{bench: b, size: b.opts.size}
	b.table(noTable, "Changes made on purpose",
		fmt.Sprintf("Disks of %s with one ext file system: a file of %s, half of it random bytes and half text, small ones, and room. They "+
			"are made by the benchmark, always with the same content. Other programs get the disks as they are.",
			size(m.diskBytes()), size(m.size)))
	if err := b.free(12 * m.diskBytes()); err != nil {
		return err
	}
	if err := m.tree(); err != nil {
		return err
	}
	for _, c := range changes() {
		if len(b.opts.cases) > 0 && !slices.Contains(b.opts.cases, c.name) {
			continue
		}
		t := b.table(updates, c.title, c.about)
		b.say("making the disks: %s", c.title)
		old, newer := c.name+"1.raw", c.name+"2.raw"
		if err := m.fileSystem(ctx, old, c.ext3); err != nil {
			return err
		}
		if err := copyDisk(m.disk(old), m.disk(newer)); err != nil {
			return err
		}
		if err := c.make(m, ctx, newer); err != nil {
			return fmt.Errorf("make the disk for %q: %w", c.title, err)
		}
		if err := b.synthetically(ctx, t, c, old, newer); err != nil {
			return err
		}
		if err := b.clearWeb(); err != nil {
			return err
		}
		for _, d := range []string{old, newer} {
			if err := b.remove(filepath.Join(disksFolder, d), packedName(filepath.Join(disksFolder, d))); err != nil {
				return err
			}
		}
	}
	return b.remove(treeFolder)
}

func (b *bench) synthetically(ctx context.Context, t *table, c change, old, newer string) error {
	for _, d := range []string{old, newer} {
		name := filepath.Join(disksFolder, d)
		if _, err := pack(b.at(name), b.at(packedName(name))); err != nil {
			return err
		}
	}
	for run := range b.opts.runs {
		b.say("run %d of %d: %s", run+1, b.opts.runs, c.title)
		if err := b.oursSynthetically(ctx, t, c, old, newer); err != nil {
			return err
		}
		if err := b.comparePeers(ctx, pair{t: t, disks: versionPair{old, newer}, small: true, thorough: c.thorough, first: true}); err != nil {
			return err
		}
		if err := b.clearWeb(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) oursSynthetically(ctx context.Context, t *table, c change, old, newer string) error {
	if _, _, err := b.ours.publish(ctx, c.name, filepath.Join(disksFolder, old)); err != nil {
		return err
	}
	s, d, err := b.ours.publish(ctx, c.name, filepath.Join(disksFolder, newer))
	if err != nil {
		return err
	}
	r := result{prepare: s, stored: d.Bytes}
	l, err := b.ours.laptop(ctx, c.name)
	if err != nil {
		return err
	}
	if _, _, err := l.deploy(ctx, 1); err != nil {
		return err
	}
	rc, err := b.updateAndCheck(ctx, l, &r, filepath.Join(disksFolder, newer), 2)
	if err != nil {
		return err
	}
	t.ours(oursName).add(r)
	if c.name == "byte" {
		t.after = []string{fmt.Sprintf("The layer file of disksync has %s bytes. All that went over the line for the update, in both "+
			"directions, with TLS and its handshakes, the manifest and the index, is %s bytes; the receipt says %s.",
			digits(d.Bytes), digits(r.fetched), digits(rc.Wire))}
	}
	if err := l.close(); err != nil {
		return err
	}
	return b.ours.forget(ctx, c.name)
}

// size returns a number of bytes for people.
func size(n int64) string { return progress.Bytes(n) }

// digits returns a number with its digits in groups of three.
func digits(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
