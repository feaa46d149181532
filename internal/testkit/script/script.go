// Package script has the commands that the scripts of several programs share: tests that read like a manual, run by testscript.
package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/vhd"
)

// Command is what a word of a script does.
type Command = func(ts *testscript.TestScript, neg bool, args []string)

// With returns the shared commands and those of one program.
func With(own map[string]Command) map[string]Command {
	all := map[string]Command{"exits": exits, "disk": disk, "vhd": toVHD, "shape": shape, "damage": damage, "small": small}
	for name, c := range own {
		if slices.Contains(taken, name) {
			panic("script: testscript has a command " + name + " of its own")
		}
		all[name] = c
	}
	return all
}

// taken are the names of testscript's commands that it would run in place of ours, without a word: stop ends a script there and then.
var taken = []string{"cd", "chmod", "cp", "env", "exec", "exists", "grep", "kill", "mkdir", "mv", "rm", "skip", "stop", "symlink", "wait"}

// Condition knows [root]: whoever runs the tests may do everything. Where CI is set it must be so, or what needs it would never
// be looked at.
func Condition(name string) (bool, error) {
	switch {
	case name != "root":
		return false, fmt.Errorf("no condition %q", name)
	case os.Getuid() != 0 && os.Getenv("CI") != "":
		return false, errors.New("a part of this script needs root; where CI is set it may not be left out")
	}
	return os.Getuid() == 0, nil
}

// exits STATUS PROGRAM ARG…: the program ends with the status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](ts.Exec(args[1], args[2:]...)); ok {
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s: exit status %d, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// disk FILE SEED…: write a raw disk with a block for each seed; 0 is a block of zeros.
func disk(ts *testscript.TestScript, _ bool, args []string) {
	var seeds []uint64
	for _, a := range args[1:] {
		n, err := strconv.ParseUint(a, 10, 64)
		ts.Check(err)
		seeds = append(seeds, n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), lab.Disk(seeds...), 0o600))
}

// vhd FILE RAW [PARENT]: write a raw disk as a dynamic VHD, or as one that differs from PARENT.
func toVHD(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	o := vhd.CreateOptions{Size: int64(len(raw)), UUID: [16]byte{1}, Timestamp: vhd.TimestampOf(time.Now())}
	var parents []*vhd.Image
	if len(args) > 2 {
		p, err := os.Open(ts.MkAbs(args[2]))
		ts.Check(err)
		defer p.Close()
		st, err := p.Stat()
		ts.Check(err)
		parent, err := vhd.Open(p, st.Size())
		ts.Check(err)
		parents = append(parents, parent)
		o.UUID, o.Parent = [16]byte{2}, &vhd.Parent{UUID: parent.UUID(), Path: args[2]}
	}
	ts.Check(vhd.Create(f, o))
	st, err := f.Stat()
	ts.Check(err)
	d, err := vhd.OpenDisk(f, st.Size(), parents)
	ts.Check(err)
	_, err = d.WriteAt(raw, 0)
	ts.Check(err)
	ts.Check(d.Sync())
}

// shape FILE: the JSON that was printed last has the names and types that are in the file.
func shape(ts *testscript.TestScript, _ bool, args []string) {
	got, err := testkit.JSONShape([]byte(ts.ReadFile("stdout")))
	ts.Check(err)
	if want := ts.ReadFile(args[0]); got != want {
		ts.Fatalf("the shape is\n%s", got)
	}
}

// damage PATTERN: change a byte in the middle of each file like PATTERN.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) == 0 {
		ts.Fatalf("there is no file like %s", args[0])
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		ts.Check(err)
		b[len(b)/2] ^= 1
		ts.Check(os.Chmod(name, 0o600))
		ts.Check(os.WriteFile(name, b, 0o600))
	}
}

// small FOLDER SIZE: make a folder with room for so much, as mount(8) takes it. It needs [root].
func small(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { ts.Check(syscall.Unmount(dir, 0)) })
}
