// Command bench compares this project with other programs that bring disks to other machines, and writes what it measured to
// docs/benchmarks.md.
//
//	make bench WORK=/folder/with/three/versions/of/a/disk
//
// All programs are measured as whole processes, on this machine, over a line that counts bytes. What is compared, and what is not,
// is said on the page itself. It leaves nothing behind but the page. The exit status is 0 when the page was written and every disk
// was as it should be, 1 when not, 2 for a wrong command line, and 130 when it was interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"disksync/image"
)

// Exit statuses.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// options are what the command line says.
type options struct {
	work  string        // the folder with v1.raw, v2.raw, v3.raw; empty: only what is made here
	bin   string        // the folder of this project's programs
	page  string        // the file that is written
	dir   string        // where the folder for everything else is made; empty: the usual place
	runs  int           // how often everything is measured
	size  int64         // of the file that is moved, bytes; the other disks that are made here go by it
	large int64         // of the large disk, bytes
	limit time.Duration // of a peer's command
	peers []string      // other programs that take part; empty: all that are installed
	cases []string      // of the changes made on purpose; empty: all
	chain int           // length of the longer chain of disks
	all   bool          // the peers also where little can be learned from it
	log   io.Writer     // what is being done
}

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == asPart {
		if err := part(os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", asPart, err)
			return exitFailed
		}
		return 0
	}
	if err := findAll(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return exitFailed
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if o.work == "" {
		fmt.Fprintln(os.Stderr, howToMakeOne)
	}
	_, err = measureAll(ctx, o)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything is stopped and removed, and no page was written")
		return exitInterrupted
	}
	fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	return exitFailed
}

// findAll has programs found that Debian keeps where users' shells do not look.
func findAll() error { return os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") }

// howToMakeOne says what is missing without a real disk.
const howToMakeOne = `bench: without WORK there are only disks that the benchmark makes itself.
bench: "make bench WORK=/folder" compares with a real one. Put three versions of a VM's disk there, copied while the VM was off:
bench:     qemu-img convert -O raw vm.qcow2 /folder/v1.raw     # then update the VM, use it, turn it off, and so on with v2.raw, v3.raw
bench: v2t.raw and v3t.raw may be copies of v2.raw and v3.raw whose free space was discarded (mount -o loop, fstrim, umount).`

func parseFlags(args []string) (options, error) {
	o := options{log: os.Stderr, chain: chainLength}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.work, "work", "", "measure with the disks v1.raw, v2.raw and v3.raw in this `folder`")
	f.StringVar(&o.bin, "bin", "bin", "the `folder` that make build has put the programs into")
	f.StringVar(&o.page, "page", "docs/benchmarks.md", "write the page to this `file`")
	f.StringVar(&o.dir, "dir", "", "make the work folder in this `folder` (default $TMPDIR or /var/tmp); it needs six times the data of a disk")
	f.IntVar(&o.runs, "runs", 3, "measure everything so many `times`; the page has the medians")
	mib := f.Int64("size", 64, "size of the file that is moved, in `MiB`")
	gib := f.Int64("large", largeDefault>>30, "size of the disk of the case large, in `GiB`; it needs a fortieth of that as room, and FUSE")
	f.DurationVar(&o.limit, "limit", 3*time.Minute, "stop a command of another program after this `time`, and say so")
	words := func(list *[]string) func(string) error {
		return func(s string) error { *list = strings.Split(s, ","); return nil }
	}
	f.Func("peers", "only these other `programs`, separated by commas (default all that are installed)", words(&o.peers))
	f.Func("cases", "only these `cases` of changes made on purpose: byte, clusters, moved, grown, upgraded, blocks, backups, large (default all\n"+
		"but large, which takes half an hour or more); blocks, backups or large alone, without --work, is measured alone and leaves the rest of the page as it is", words(&o.cases))
	f.BoolVar(&o.all, "all", false, "give other programs every pair of versions, with free space and without, and make the case large: takes twice as long, and half an hour or more")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.size, o.large = *mib<<20, *gib<<30
	if f.NArg() > 0 || o.runs < 1 || o.size < minSize || o.limit <= 0 || *gib < 1 || o.large > image.MaxDiskSize {
		fmt.Fprintf(f.Output(), "bench: it takes flags only, at least one run and at least %d MiB, see --help\n", int64(minSize)>>20)
		return o, errors.New("wrong usage")
	}
	return o, nil
}
