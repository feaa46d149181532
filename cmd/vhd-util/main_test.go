package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"disksync/internal/testkit"
	"disksync/vhd/vhdfile"
)

func TestMain(m *testing.M) {
	// Programs built with the race detector wait a second before they end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"vhd-util": main})
}

// corpusDir has disks of other programs, and damaged ones.
const corpusDir = "../../vhd/testdata/corpus"

func TestScripts(t *testing.T) {
	corpus, err := filepath.Abs(corpusDir)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			// Programs built with the race detector wait a second before they end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("CORPUS", corpus)
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "corpus": corpusFile, "same": same, "patch": patch, "files": files, "empty": emptyFile, "journal": makeJournal, "switchoff": switchOff, "listening": listening,
		},
	})
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

// corpus NAME…: unpack files of the corpus.
func corpusFile(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		f, err := os.Open(filepath.Join(ts.Getenv("CORPUS"), name+".vhd.gz"))
		ts.Check(err)
		r, err := gzip.NewReader(f)
		ts.Check(err)
		b, err := io.ReadAll(r)
		ts.Check(err)
		ts.Check(f.Close())
		ts.Check(os.WriteFile(ts.MkAbs(filepath.Base(name)+".vhd"), b, 0o644))
	}
}

// same A B: two disks, VHDs with their parents or raw ones, have the same content; with "!" they have not.
func same(ts *testscript.TestScript, neg bool, args []string) {
	var content [2][]byte
	for i, name := range args {
		b, err := read1(ts.MkAbs(name))
		ts.Check(err)
		content[i] = b
	}
	if bytes.Equal(content[0], content[1]) == neg {
		ts.Fatalf("%s (%d bytes) and %s (%d bytes): same is %t", args[0], len(content[0]), args[1], len(content[1]), neg)
	}
}

// read1 reads a whole disk.
func read1(name string) ([]byte, error) {
	if filepath.Ext(name) == ".raw" {
		return os.ReadFile(name)
	}
	c, err := vhdfile.OpenChain(name, vhdfile.Options{FollowPaths: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b := make([]byte, c.Size())
	if n, err := c.ReadAt(b, 0); n < len(b) {
		return nil, err
	}
	return b, nil
}

// patch FILE OFFSET HEX: overwrite bytes; a negative offset counts from the end.
func patch(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	off, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	if st, err := f.Stat(); err == nil && off < 0 {
		off += st.Size()
	}
	var b []byte
	_, err = fmt.Sscanf(args[2], "%x", &b)
	ts.Check(err)
	_, err = f.WriteAt(b, off)
	ts.Check(errors.Join(err, f.Close()))
}

// files DIR NAME…: the folder has these files and no others, hidden ones included.
func files(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if g, w := strings.Join(got, " "), strings.Join(args[1:], " "); g != w {
		ts.Fatalf("%s has %s, want %s", args[0], g, w)
	}
}

// empty FILE [SIZE]: make a file of zeros.
func emptyFile(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(args) > 1 {
		n, err := strconv.ParseInt(args[1], 0, 64)
		ts.Check(err)
		ts.Check(f.Truncate(n))
	}
	ts.Check(f.Close())
}

// listening SOCKET: wait until somebody listens there.
func listening(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(testkit.Patience)
	for {
		c, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err == nil {
			ts.Check(c.Close())
			return
		}
		select {
		case <-tick.C:
		case <-late:
			ts.Fatalf("nobody listens: %v", err)
		}
	}
}
