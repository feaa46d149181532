package testkit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/internal/testkit"
)

// verdict is a test that notes how it ends.
type verdict struct {
	testing.TB
	ending string
}

func (v *verdict) Helper() {}

func (v *verdict) Skip(args ...any) {
	v.ending = "skip: " + fmt.Sprint(args...)
	runtime.Goexit()
}

func (v *verdict) Fatal(args ...any) {
	v.ending = "fail: " + fmt.Sprint(args...)
	runtime.Goexit()
}

// tool runs testkit.Tool for a test of its own and returns the path and the
// test's ending.
func tool(t *testing.T, name string) (path, ending string) {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done) // also when the test ends itself
		path = testkit.Tool(v, name)
	}()
	<-done
	return path, v.ending
}

func TestTool(t *testing.T) {
	dir := t.TempDir()
	present := filepath.Join(dir, "present")
	if err := os.WriteFile(present, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, tool, ci, wantPath, wantEnding string
	}{
		{name: "present", tool: "present", wantPath: present},
		{name: "present in CI", tool: "present", ci: "true", wantPath: present},
		{name: "missing", tool: "missing", wantEnding: "skip: "},
		{name: "missing in CI", tool: "missing", ci: "true", wantEnding: "fail: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", dir)
			t.Setenv("CI", test.ci)
			path, ending := tool(t, test.tool)
			if path != test.wantPath {
				t.Errorf("path %q, want %q", path, test.wantPath)
			}
			if !strings.HasPrefix(ending, test.wantEnding) || (test.wantEnding == "") != (ending == "") {
				t.Errorf("the test ended with %q, want %q", ending, test.wantEnding)
			}
			if test.wantEnding != "" && !strings.Contains(ending, test.tool) {
				t.Errorf("%q does not name the tool", ending)
			}
		})
	}
}

func TestStartBusEndsWithTheTest(t *testing.T) {
	var address string
	t.Run("test that needs a bus", func(t *testing.T) {
		address = testkit.StartBus(t, testkit.SystemBus).Address
		conn, err := dbus.Connect(address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	})
	if address == "" {
		t.Skip("no bus")
	}
	if _, err := dbus.Connect(address); err == nil {
		t.Error("the bus has outlived its test")
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(address, "unix:path="), ",")
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the bus is still there: %v", err)
	}
}
