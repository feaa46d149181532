package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"disksync/endpoint"
	"disksync/vhd/vhdfile"
)

// backupsCase is the name of this comparison among the cases.
const backupsCase = "backups"

// backupsTitle is its section of the page.
const backupsTitle = "Backups of a changing disk"

const (
	backupsImage = "backups"
	backupsDisk  = "changing.raw"
	backupPoints = 5   // backups after the first
	smallWrites  = 200 // of 4 KiB each, between two backups
)

// backuper is a program that makes backups of the disk.
type backuper struct {
	name   string
	tool   string // that must be installed; empty: ours
	repo   string
	init   command
	backup func(n int) command
}

func backupers() []backuper {
	restic := []string{"RESTIC_PASSWORD=secret", "XDG_CACHE_HOME=cache"}
	borg := []string{"BORG_BASE_DIR=borg-base", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes"}
	return []backuper{
		{name: "restic", tool: "restic", repo: "restic",
			init: command{program: "restic", args: []string{"-q", "-r", "restic", "init"}, env: restic, peer: true},
			backup: func(int) command {
				return command{program: "restic", args: []string{"-q", "-r", "restic", "backup", backupsDisk}, env: restic, peer: true}
			}},
		{name: "borg, zstd", tool: "borg", repo: "borg",
			init: command{program: "borg", args: []string{"init", "-e", "none", "borg"}, env: borg, peer: true},
			backup: func(n int) command {
				return command{program: "borg", args: []string{"create", "--compression", "zstd", fmt.Sprintf("borg::%d", n), backupsDisk}, env: borg, peer: true}
			}},
	}
}

// backupRow is what a program took: its first backup, and each later one.
type backupRow struct {
	name  string
	first []backupCost
	later []backupCost
}

type backupCost struct {
	sample
	bytes int64 // that it sent, or that its store grew by
}

// backups compares backups of a VM's disk with those of programs that make backups of files.
func (b *bench) backups(ctx context.Context) error {
	size := 16 * b.opts.size
	if err := b.free(6 * size); err != nil {
		return err
	}
	t := b.table(noTable, backupsTitle, backupsAbout(size, b.opts.runs))
	rows := []*backupRow{{name: oursName}}
	for _, p := range backupers() {
		if b.plays(p.tool) {
			rows = append(rows, &backupRow{name: p.name})
		}
	}
	for run := range b.opts.runs {
		b.say("run %d of %d: %s", run+1, b.opts.runs, backupsTitle)
		if err := b.backupRun(ctx, run, size, rows); err != nil {
			return err
		}
	}
	t.grid = backupsGrid(rows)
	return nil
}

func backupsAbout(disk int64, runs int) string {
	return fmt.Sprintf("A disk of %s, half of it random bytes and text, is backed up, changed and backed up again, %d times a run (runs: %d): %d "+
		"clusters of 4 KiB all over the disk and a file of %s, half random bytes and half text, are written between two. disksync backs up a "+
		"VM whose disk that is, deployed from an image: the first backup has the first changes. It sends to a Synchronizer over an "+
		"encrypted line, and the Synchronizer has read and compared all before the backup counts as made. The others have the disk as a "+
		"file, keep all of it at the first time, and write to a folder beside it. Figures are medians. The last point of disksync is "+
		"restored as another VM and compared byte by byte.",
		size(disk), backupPoints, runs, smallWrites, size(disk/64))
}

// backupRun makes all backups once. Each run writes something else: the Synchronizer has the layers of the runs before.
func (b *bench) backupRun(ctx context.Context, run int, size int64, rows []*backupRow) error {
	if err := b.remove(backupsDisk); err != nil {
		return err
	}
	if err := makeChanging(b.at(backupsDisk), size); err != nil {
		return err
	}
	if _, _, err := b.ours.publish(ctx, backupsImage, backupsDisk); err != nil {
		return err
	}
	l, err := b.ours.laptop(ctx, backupsImage)
	if err != nil {
		return err
	}
	if _, _, err := l.deploy(ctx, 1); err != nil {
		return err
	}
	for _, p := range backupers() {
		if !b.plays(p.tool) {
			continue
		}
		if _, err := b.run(ctx, p.init); err != nil {
			return err
		}
		if err := b.backUpWith(ctx, p, rows, 0); err != nil {
			return err
		}
	}
	c := &changing{bench: b, l: l, size: size, r: rand.New(rand.NewPCG(seed, uint64(31+run)))}
	for n := range backupPoints {
		if err := c.change(ctx, run*backupPoints+n); err != nil {
			return err
		}
		s, rc, err := asJSON[endpoint.Receipt](ctx, b, l.command("backup", backupsImage))
		if err != nil {
			return err
		}
		addBackup(rows, oursName, n, backupCost{s, rc.Wire})
		for _, p := range backupers() {
			if b.plays(p.tool) {
				if err := b.backUpWith(ctx, p, rows, n+1); err != nil {
					return err
				}
			}
		}
	}
	if err := c.check(ctx); err != nil {
		return err
	}
	if err := b.remove("restic", "cache", "borg", "borg-base", backupsDisk); err != nil {
		return err
	}
	return errors.Join(l.close(), b.ours.forget(ctx, backupsImage))
}

// backUpWith has another program make its backup number n, from 0.
func (b *bench) backUpWith(ctx context.Context, p backuper, rows []*backupRow, n int) error {
	before, err := b.onDisk(p.repo)
	if err != nil {
		return err
	}
	b.say("%s: %s", backupsTitle, p.name)
	s, err := b.run(ctx, p.backup(n))
	if err != nil {
		return err
	}
	after, err := b.onDisk(p.repo)
	if err != nil {
		return err
	}
	addBackup(rows, p.name, n, backupCost{s, after - before})
	return nil
}

func addBackup(rows []*backupRow, name string, n int, c backupCost) {
	r := rows[slices.IndexFunc(rows, func(r *backupRow) bool { return r.name == name })]
	if n == 0 {
		r.first = append(r.first, c)
	} else {
		r.later = append(r.later, c)
	}
}

// changing is the disk, as a file and as that of a VM.
type changing struct {
	*bench
	l    *laptop
	size int64
	r    *rand.Rand
}

// makeChanging makes the disk: a quarter random bytes, a quarter text, then zeros, and so on.
func makeChanging(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	c := newContent(39)
	const part = 1 << 20
	for off := int64(0); off < size && err == nil; off += 4 * part {
		_, err = f.WriteAt(append(c.random(part), c.text(part)...), off)
	}
	return errors.Join(err, f.Truncate(size), f.Close())
}

// change writes the same to the file and to the VM's disk, as the VM would.
func (c *changing) change(ctx context.Context, n int) error {
	text, err := c.quietly(ctx, "disksyncmgr", "--standalone", "--state", laptopDir, "vms", "--json")
	if err != nil {
		return err
	}
	var vms []endpoint.VMInfo
	if err := json.Unmarshal([]byte(text), &vms); err != nil || len(vms) != 1 {
		return fmt.Errorf("vms printed %q: %w", text, err)
	}
	leaf, err := vhdfile.OpenDisk(vms[0].Disks[0].Leaf, vhdfile.Options{})
	if err != nil {
		return err
	}
	raw, err := os.OpenFile(c.at(backupsDisk), os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, leaf.Close())
	}
	put := func(b []byte, off int64) error {
		_, err := raw.WriteAt(b, off)
		_, err2 := leaf.WriteAt(b, off)
		return errors.Join(err, err2)
	}
	words := newContent(uint64(40 + n))
	for range smallWrites {
		err = errors.Join(err, put(words.text(cluster)[:cluster], c.r.Int64N(c.size/cluster)*cluster))
	}
	file := c.size / 64
	at := c.r.Int64N((c.size-file)/cluster) * cluster
	for off := int64(0); off < file && err == nil; off += 2 * stretch {
		err = put(append(words.random(stretch), words.text(stretch)[:stretch]...), at+off)
	}
	return errors.Join(err, raw.Close(), leaf.Sync(), leaf.Close())
}

// check restores the last point and compares it.
func (c *changing) check(ctx context.Context) error {
	const restored = "restored"
	for _, args := range [][]string{{"restore", backupsImage, "--as", restored}, {"export", restored, "--to", exported}} {
		if _, err := c.run(ctx, c.l.command(args...)); err != nil {
			return err
		}
	}
	if _, err := sameButFree(c.at(exported), c.at(backupsDisk)); err != nil {
		return fmt.Errorf("the restored disk: %w", err)
	}
	return c.remove(exported)
}

// backupsGrid is the table.
func backupsGrid(rows []*backupRow) []string {
	lines := []string{
		"| | first: sent or stored | time | processor | memory | later: sent or stored | time | processor | server | memory |",
		"|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
	}
	for _, r := range rows {
		name := r.name
		if name == oursName {
			name = "**" + name + "**"
		}
		cells := append([]string{name}, costCells(r.first, false)...)
		lines = append(lines, "| "+strings.Join(append(cells, costCells(r.later, true)...), " | ")+" |")
	}
	return lines
}

func costCells(costs []backupCost, server bool) []string {
	wall := func(c backupCost) time.Duration { return c.wall }
	cpu := func(c backupCost) time.Duration { return c.cpu }
	cells := []string{
		size(middleOf(costs, func(c backupCost) int64 { return c.bytes })), timeCell(middleOf(costs, wall)), timeCell(middleOf(costs, cpu)),
	}
	if server {
		cells = append(cells, timeCell(middleOf(costs, func(c backupCost) time.Duration { return c.serverCPU })))
	}
	return append(cells, size(middleOf(costs, func(c backupCost) int64 { return c.peak })))
}

// middleOf returns the median of something, of an even number the lower of the two.
func middleOf[T cmp.Ordered](costs []backupCost, of func(backupCost) T) T {
	var v []T
	for _, c := range costs {
		v = append(v, of(c))
	}
	slices.Sort(v)
	return v[(len(v)-1)/2]
}
