package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	dir         string // where the work folder is made; empty: the usual place
	source      string // whose files fill the disk; empty: the Go toolchain
	maxBytes    int64  // of files; 0: all
	standalone  bool   // no D-Bus
	out         io.Writer
	styled      bool   // out is a terminal that can print bold
	lineSeconds int64  // how long the full disk takes over the slow line; 0: as long as usual
	unheard     func() // called when nothing can be written to out any more; nil: then it goes on
}

// A demo is one run of the demonstration.
type demo struct {
	*console
	opts     options
	work     string // the work folder
	report   report
	server   *server
	user     user
	first    *laptop
	disks    []*version // in the order of their versions
	services []*child   // everything that was started to run for long
	cleanups []func() error
}

// user is who uses the laptops.
type user struct{ name, password string }

// demonstrate runs the whole demonstration and cleans up behind it. The error says what was not as it should be.
func demonstrate(ctx context.Context, o options) (_ *report, err error) {
	began := time.Now()
	d := &demo{opts: o, console: &console{out: o.out, styled: o.styled, unheard: o.unheard}}
	if d.work, err = makeWorkFolder(o); err != nil {
		return nil, err
	}
	d.atEnd(func() error { return os.RemoveAll(d.work) })
	d.long, d.short = d.work, "$WORK"
	err = d.tell(ctx)
	if err != nil && ctx.Err() == nil {
		d.lastWords()
	}
	if cleanErr := d.cleanUp(); ctx.Err() == nil {
		err = errors.Join(err, cleanErr)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(d.report.deployments) > 0 {
		d.report.print(d.console, d.disks)
	}
	d.print("")
	d.say("%v in all; everything is stopped and removed.", time.Since(began).Round(time.Second))
	if err == nil && len(d.report.wrong) > 0 {
		err = fmt.Errorf("%d things are not as they should be, the first one: %s", len(d.report.wrong), d.report.wrong[0])
	}
	return &d.report, err
}

// atEnd remembers what is to be undone, the last one first.
func (d *demo) atEnd(undo func() error) { d.cleanups = append(d.cleanups, undo) }

func (d *demo) cleanUp() error {
	var errs []error
	for _, undo := range slices.Backward(d.cleanups) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// expect notes that something is not as it should be; the story goes on.
func (d *demo) expect(ok bool, format string, args ...any) {
	if ok {
		return
	}
	text := fmt.Sprintf(format, args...)
	d.alarm(text)
	d.report.wrong = append(d.report.wrong, text)
}

// lastWords prints the ends of the logs of what runs for long.
func (d *demo) lastWords() {
	for _, s := range d.services {
		if words := s.errs.last(5); words != "" {
			d.print("\n   The end of what \"" + strings.Join(s.cmd.Args, " ") + "\" logged:")
			d.output(words)
		}
	}
}

// machine returns a new machine of the story.
func (d *demo) machine(name string) machine {
	return machine{console: d.console, name: name, work: d.work, bin: d.binFolder()}
}
