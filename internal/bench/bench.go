package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"disksync/internal/durable"
)

// A bench is one run of the comparison.
type bench struct {
	opts     options
	dir      string // the work folder; all commands run in it
	self     string // this program, for its parts
	ours     *ours
	web      *service // a web server on the folder webFolder
	daemon   *service // an rsync daemon
	tables   []*table
	section  *table // that commands belong to at present
	secrets  []string
	began    time.Time
	cleanups []func() error
}

// Folders in the work folder.
const (
	disksFolder = "disks" // what is compared, under short names
	webFolder   = "web"   // what the web server has
)

// cores returns how many processors there are for us.
func cores() int { return runtime.GOMAXPROCS(0) }

// measureAll runs the whole comparison, writes the page, and cleans up. It returns the tables.
func measureAll(ctx context.Context, o options) (_ []*table, err error) {
	if err := o.checkPage(); err != nil {
		return nil, err
	}
	b := &bench{opts: o, began: time.Now()}
	if b.dir, err = makeWorkFolder(o.dir); err != nil {
		return nil, err
	}
	b.atEnd(func() error { return os.RemoveAll(b.dir) })
	err = b.measure(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if s, alone := o.alone(); err == nil && alone {
		err = b.writeSection(s.title)
	} else if err == nil {
		err = b.writePage(ctx)
	}
	for _, f := range slices.Backward(b.cleanups) {
		err = errors.Join(err, f())
	}
	return b.tables, err
}

// makeWorkFolder makes an empty folder, by preference on a disk: the usual place for temporary files is often in memory.
func makeWorkFolder(parent string) (string, error) {
	const onDisk = "/var/tmp"
	if parent == "" {
		parent = os.TempDir()
		if info, err := os.Stat(onDisk); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
			parent = onDisk
		}
	}
	dir, err := os.MkdirTemp(parent, "disksync-bench-")
	if err != nil {
		return "", fmt.Errorf("%w; name another folder with --dir", err)
	}
	return filepath.Abs(dir)
}

// measure measures everything.
func (b *bench) measure(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.opts.work != "" {
		if b.opts.work, err = filepath.Abs(b.opts.work); err != nil {
			return err
		}
	}
	if b.opts.bin, err = filepath.Abs(b.opts.bin); err != nil {
		return err
	}
	for _, d := range []string{disksFolder, webFolder} {
		if err := os.Mkdir(b.at(d), 0o700); err != nil {
			return err
		}
	}
	s, alone := b.opts.alone()
	if alone && !s.ours {
		return s.measure(b, ctx)
	}
	b.section = &table{title: "Servers"}
	if alone {
		if b.ours, err = b.startOurs(ctx, dataFolder); err != nil {
			return err
		}
		return s.measure(b, ctx)
	}
	b.tables = append(b.tables, b.section)
	if err := b.startServers(ctx); err != nil {
		return err
	}
	if b.opts.work != "" {
		if err := b.versions(ctx); err != nil {
			return err
		}
	}
	if err := b.synthetic(ctx); err != nil {
		return err
	}
	return b.measureSections(ctx)
}

// startServers starts everybody's server, each at the other end of a line that counts.
func (b *bench) startServers(ctx context.Context) (err error) {
	if b.ours, err = b.startOurs(ctx, dataFolder); err != nil {
		return err
	}
	if b.web, err = b.serve(ctx, "", command{program: b.self, args: []string{asPart, partWeb, webFolder}}); err != nil {
		return err
	}
	if err := b.connect(b.web, b.web.words); err != nil {
		return err
	}
	b.secrets = append(b.secrets, b.web.line.address(), "$WEB")
	if !b.plays("rsync") {
		return nil
	}
	return b.startRsync(ctx)
}

func (b *bench) atEnd(f func() error) { b.cleanups = append(b.cleanups, f) }

// at returns the path of something in the work folder.
func (b *bench) at(name string) string { return filepath.Join(b.dir, name) }

// path returns the program that a name stands for.
func (b *bench) path(program string) string {
	if info, err := os.Stat(filepath.Join(b.opts.bin, program)); err == nil && info.Mode().IsRegular() {
		return filepath.Join(b.opts.bin, program)
	}
	return program
}

// remove removes files and folders of the work folder; what is not there is no matter.
func (b *bench) remove(names ...string) error {
	for _, n := range names {
		if err := os.RemoveAll(b.at(n)); err != nil {
			return err
		}
	}
	return nil
}

// say tells whoever waits what is being done.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.opts.log, "%6s  %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// show keeps a command for the page, as it can be typed: what differs from run to run gets a name.
func (b *bench) show(c command) {
	if c.quiet {
		return
	}
	program := c.program
	if program == b.self {
		program = "bench"
	}
	words := []string{program}
	for _, a := range c.args {
		if strings.ContainsAny(a, " *?'\"&|;<>#") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	text := strings.NewReplacer(append(slices.Clone(b.secrets), b.dir+"/", "")...).Replace(strings.Join(words, " "))
	if c.stdin != "" {
		text += " <<< $PASSWORD"
	}
	if !slices.Contains(b.section.commands, text) {
		b.section.commands = append(b.section.commands, text)
	}
}

// quietly runs a program that is not measured, and returns what it printed.
func (b *bench) quietly(ctx context.Context, program string, args ...string) (string, error) {
	s, err := b.run(ctx, command{program: program, args: args, quiet: true})
	return s.out, err
}

// free checks that there is room for so many bytes in the work folder.
func (b *bench) free(need int64) error {
	d, err := durable.Dir(b.dir)
	if err != nil {
		return err
	}
	free, err := d.Free()
	if err == nil && free < need {
		err = fmt.Errorf("%s has %s of free space, this needs about %s; name another folder with --dir", b.dir, size(free), size(need))
	}
	return err
}
