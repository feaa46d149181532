package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"disksync/internal/durable"
)

// writePage writes what was measured.
func (b *bench) writePage(ctx context.Context) error {
	var p page
	p.say("# Benchmarks")
	p.say("This page is written by `make bench`; nothing on it is by hand. It compares disksync with programs that bring disks, or " +
		"changes of disks, to other machines.")
	p.intro(b)
	p.say("## Machine and programs")
	for _, line := range append(describeMachine(), b.versionsOfPrograms(ctx)...) {
		p.lines("- " + line)
	}
	p.lines("")
	for _, t := range b.tables {
		p.table(t)
	}
	p.say("## Exact commands")
	p.say("In a folder of their own, in this order; checks and copies of disks that no program is measured with are left out. " +
		"`$SYNCHRONIZER`, `$WEB` and `$RSYNC` are near ends of the lines that count bytes, `bench` is `internal/bench` itself.")
	for _, t := range b.tables {
		if len(t.commands) > 0 {
			p.say("**" + t.title + "**")
			p.say("    " + strings.Join(t.commands, "\n    "))
		}
	}
	return b.keepPage(append(bytes.TrimRight(p.Bytes(), "\n"), '\n'))
}

// writeSection writes what was measured into one section of the page that is there, or makes a page of that section.
func (b *bench) writeSection(title string) error {
	old, err := os.ReadFile(b.opts.page)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var p page
	for _, t := range b.tables {
		p.table(t)
	}
	return b.keepPage([]byte(replaceSection(string(old), title, p.String())))
}

// checkPage returns an error when the page cannot be written; better before the measuring than after.
func (o options) checkPage() error {
	info, err := os.Stat(filepath.Dir(o.page))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no folder", filepath.Dir(o.page))
	}
	if err != nil {
		return fmt.Errorf("write the page: %w; name another file with --page", err)
	}
	return nil
}

func (b *bench) keepPage(text []byte) error {
	dir, err := durable.Dir(filepath.Dir(b.opts.page))
	if err != nil {
		return err
	}
	if err := durable.WriteFile(dir, filepath.Base(b.opts.page), text, 0o644); err != nil {
		return err
	}
	b.say("wrote %s", b.opts.page)
	return nil
}

// page is a text with tables.
type page struct{ bytes.Buffer }

// say writes a paragraph.
func (p *page) say(text string) {
	if text != "" {
		fmt.Fprintf(p, "%s\n\n", text)
	}
}

// lines writes lines without a space between.
func (p *page) lines(text string) { fmt.Fprintln(p, text) }

func (p *page) intro(b *bench) {
	p.say("## What is compared, and what is not")
	times := fmt.Sprintf("the medians of %d runs", b.opts.runs)
	if b.opts.runs == 1 {
		times = "those of one run, so times may be off by what else the machine was doing"
	}
	for _, s := range []string{
		"Figures are " + times + ". Everything runs on one machine, one program at a time, over a line without delay that counts bytes " +
			"in both directions, protocol and encryption included. On a slow line the bytes are what decides.",
		"Programs are measured as whole processes. *time* is until the last byte of the result is on the disk: where a program does " +
			"not wait for that by itself, the benchmark does, and counts it. *processor* is user and system time of a program with all " +
			"that it started; *server* is that of the program at the other end of the line. *memory* is the most that the largest " +
			"process had at once; a program that needs less than " + size(peakSince(os.Getpid())) + " may show that: it begins with " +
			"what the benchmark itself has. A server runs all the time: its memory is also what it has left of earlier work.",
		"*to fetch* is what goes over the line. Of xdelta3 and zstd it is the size of the patch, which somebody else has to carry. " +
			"*server keeps* is what a server stores for the new version besides the old one. *preparing* is done once for all clients, " +
			"*updating* by each. Whoever prepares has the old disk's file at hand; disksync is told so by --previous-system.",
		"disksync does more than the others in its time: it finds its way over layers, checks signatures, compares each block with " +
			"its digest before it is written, waits for the disk, reads everything back and compares it again, and keeps the old " +
			"version to go back to. The others overwrite the old version or write the whole new disk, and believe what the system " +
			"tells them. Their line is not encrypted, that of disksync is.",
		"disksync does not publish the free space of clean file systems. So other programs get disks whose free space was discarded, " +
			"where there are such (the rows say so), and the disk as it is otherwise. The first row of rsync has the disk as it is in " +
			"any case.",
		"zstd gets the used clusters of both disks, one behind the other, without their places. That is no way to update a disk, but " +
			"shows how small a good general packer makes the difference. It makes no patch for more than 2 GiB; then the new disk is " +
			"cut into the fewest equal pieces below that, and the figures are sums.",
		"Each result is compared byte by byte with the disk that was published. Of disksync it is the exported disk, where free space " +
			"must be zeros; e2fsck checks its file systems. A result that differs is none: of disksync it ends the run, of another " +
			"program the row says so.",
		fmt.Sprintf("A command of another program that takes longer than %v is stopped, and its row says so. %s", b.opts.limit,
			map[bool]string{
				true: "The slowest levels of xdelta3 and zstd get small disks only.",
				false: "Where little can be learned from it programs are left out: only some get the versions 2 to 3 and 1 to 3, and the " +
					"slowest levels of xdelta3 and zstd get small disks only. With `--all` more take part, which takes twice as long.",
			}[b.opts.all]),
	} {
		p.say(s)
	}
	if b.opts.work == "" {
		p.say("This page has only disks that the benchmark made itself. For a real one, `make bench WORK=/folder` with `v1.raw`, `v2.raw` and `v3.raw`.")
	}
}

// versionsOfPrograms returns the versions of all that is measured.
func (b *bench) versionsOfPrograms(ctx context.Context) []string {
	var out []string
	for _, v := range []struct {
		program string
		args    string
	}{
		{"synchronizer", "--version"}, {"disksyncmgr", "--version"}, {"rsync", "--version"}, {"casync", "--version"},
		{"desync", "--version"}, {"zsync", "-V"}, {"xdelta3", "-V"}, {"zstd", "--version"}, {"qemu-img", "--version"}, {"fio", "--version"},
		{"restic", "version"}, {"borg", "--version"}, {"e2fsck", "-V"},
	} {
		if _, err := exec.LookPath(b.path(v.program)); err != nil {
			out = append(out, v.program+": not installed here, left out")
			continue
		}
		if slices.Contains([]string{"rsync", "casync", "desync", "zsync", "xdelta3", "zstd", "qemu-img", "restic", "borg"}, v.program) && !b.plays(v.program) {
			out = append(out, v.program+": left out, as asked for")
			continue
		}
		text, _ := exec.CommandContext(ctx, b.path(v.program), strings.Fields(v.args)...).CombinedOutput() // some say it with a status of failure
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		out = append(out, v.program+": "+strings.Trim(strings.TrimSpace(first), "*"))
	}
	return out
}

// table writes one comparison with what it means.
func (p *page) table(t *table) {
	if len(t.rows) == 0 && len(t.about) == 0 {
		return
	}
	mark := "###"
	if t.kind == noTable {
		mark = "##"
	}
	p.say(mark + " " + t.title)
	p.say(strings.Join(t.about, " "))
	p.say(strings.Join(t.grid, "\n"))
	if len(t.rows) == 0 {
		return
	}
	head := map[kind][]string{
		publishes: {"", "time", "processor", "memory", "server", "its memory", "stored"},
		updates: {"", "to fetch", "of the best peer", "server keeps", "preparing: time", "processor", "memory", "server", "its memory",
			"updating: time", "processor", "memory", "server", "its memory"},
		deploys: {"", "time", "processor", "memory", "server", "its memory"},
	}[t.kind]
	p.lines("| " + strings.Join(head, " | ") + " |")
	p.lines("|---|" + strings.Repeat("---:|", len(head)-1))
	for _, r := range t.rows {
		p.lines("| " + strings.Join(t.cells(r, len(head)), " | ") + " |")
	}
	p.lines("")
	for _, s := range append(t.verdict(), t.after...) {
		p.say(s)
	}
}

// cells returns the columns of a row.
func (t *table) cells(r *row, n int) []string {
	name := r.name
	if r.ours {
		name = "**" + name + "**"
	}
	if r.failed != "" || len(r.runs) == 0 {
		return append([]string{name, r.failed}, make([]string, n-2)...)
	}
	prepared := r.took(func(x result) sample { return x.prepare })
	updated := r.took(func(x result) sample { return x.update })
	stored := bytesCell(median(r.runs, func(x result) int64 { return x.stored }))
	switch t.kind {
	case publishes:
		return append(append([]string{name}, prepared...), stored)
	case deploys:
		return append([]string{name}, updated...)
	}
	ratio := "-"
	if p := best(t.rows, func(r *row) bool { return !r.ours }, (*row).fetched); p != nil {
		ratio = fmt.Sprintf("%.2f", float64(r.fetched())/float64(p.fetched()))
	}
	return append(append([]string{name, bytesCell(r.fetched()), ratio, stored}, prepared...), updated...)
}

// took returns the columns for a command.
func (r *row) took(of func(result) sample) []string {
	d := func(f func(sample) time.Duration) string {
		return timeCell(median(r.runs, func(x result) time.Duration { return f(of(x)) }))
	}
	b := func(f func(sample) int64) string {
		return bytesCell(median(r.runs, func(x result) int64 { return f(of(x)) }))
	}
	return []string{
		d(func(s sample) time.Duration { return s.wall }),
		d(func(s sample) time.Duration { return s.cpu }),
		b(func(s sample) int64 { return s.peak }),
		d(func(s sample) time.Duration { return s.serverCPU }),
		b(func(s sample) int64 { return s.serverPeak }),
	}
}

func timeCell(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func bytesCell(n int64) string {
	if n == 0 {
		return "-"
	}
	return size(n)
}

// verdict says how this project compares with the best of the others.
func (t *table) verdict() []string {
	var out []string
	for _, r := range t.rows {
		if !r.ours || len(r.runs) == 0 {
			continue
		}
		switch t.kind {
		case updates:
			out = append(out, r.against(t.rows))
		case deploys:
			if f := slowest(t.rows); f != nil {
				out = append(out, fmt.Sprintf("%s takes %.2f times as long as the slowest part, which is %s.",
					r.name, r.wall().Seconds()/f.wall().Seconds(), f.name))
			}
		}
	}
	return out
}

// against compares an update with the best peers.
func (r *row) against(rows []*row) string {
	var parts []string
	fetched := func(p *row) float64 { return float64(r.fetched()) / float64(p.fetched()) }
	most := best(rows, func(q *row) bool { return !q.ours }, (*row).fetched)
	if most != nil {
		parts = append(parts, fmt.Sprintf("fetches %.2f times what the best other program does (%s)", fetched(most), most.name))
	}
	whole := func(q *row) bool { return !q.ours && !q.partly }
	if p := best(rows, whole, (*row).fetched); p != nil && p != most {
		parts = append(parts, fmt.Sprintf("%.2f times what the best does that updates a disk (%s)", fetched(p), p.name))
	}
	if p := best(rows, whole, (*row).wall); p != nil {
		parts = append(parts, fmt.Sprintf("and takes %.2f times as long to update as the fastest that updates a disk (%s)",
			r.wall().Seconds()/p.wall().Seconds(), p.name))
	}
	if len(parts) == 0 {
		return r.name + " was alone: no other program is installed."
	}
	return r.name + " " + strings.Join(parts, ", ") + "."
}

// slowest returns the part that takes longest.
func slowest(rows []*row) *row {
	var out *row
	for _, r := range rows {
		if r.floor && len(r.runs) > 0 && (out == nil || r.wall() > out.wall()) {
			out = r
		}
	}
	return out
}
