// Command demo shows the main job of the project from end to end, with its own programs and real data: a managed disk goes
// from a Synchronizer to three laptops, from a stick and over a line, through damage and interruption, and is compared byte
// by byte each time.
//
//	go run ./internal/demo
//
// It needs the Go toolchain, the modules that the project uses, and some space on disk, but no root and no network, and it
// leaves nothing behind. What it does is told in the order of the file story.go. The exit status is 0 when everything was as it should be, 1 when not, 2 for a
// wrong command line, and 130 when it was interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// maxTime is far more than the demonstration needs anywhere; it keeps a program that hangs from running for ever.
const maxTime = 20 * time.Minute

var errTooLong = errors.New("it took too long")

func main() { os.Exit(run()) }

func run() int {
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// Without this, a reader who goes away (as in "make demo | head") would end us before we have cleaned up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, end := context.WithCancel(ctx)
	defer end()
	go watchParent(ctx, os.Getppid(), end)
	o.unheard = end
	timed, cancel := context.WithTimeoutCause(ctx, maxTime, errTooLong)
	defer cancel()

	_, err = demonstrate(timed, o)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; everything is stopped and removed")
		return exitInterrupted
	}
	fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
	return exitFailed
}

func parseFlags(args []string) (options, error) {
	o := options{out: os.Stdout, styled: isTerminal(os.Stdout)}
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", "", "make the work folder in this `folder` (default $TMPDIR or /var/tmp); it needs about 3 GiB")
	f.StringVar(&o.source, "source", "", "fill the disk with the files of this `folder` (default the Go toolchain's own)")
	f.Int64Var(&o.maxBytes, "max-bytes", 0, "take no more than so many `bytes` of files (default all)")
	f.BoolVar(&o.standalone, "standalone", false, "do without D-Bus, as where dbus-daemon is missing")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.maxBytes < 0 {
		fmt.Fprintln(f.Output(), "demo: it takes flags only, see --help")
		return o, errors.New("wrong usage")
	}
	return o, nil
}

// watchParent ends the demonstration with the process that started it: "go run" passes no SIGTERM on.
func watchParent(ctx context.Context, parent int, end func()) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if os.Getppid() != parent {
				end()
				return
			}
		}
	}
}
