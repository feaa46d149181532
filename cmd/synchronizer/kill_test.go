package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// TestKilledWrite kills `media write` at any byte, again and again. Whatever has its final name is good, and the last run completes it.
func TestKilledWrite(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	l.Publish(t, "win7", lab.Disk(1, 2, 3, 4, 5, 6, 7, 8))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"folder": {"--to", "stick"}, "encrypted parts": {"--to", "stick", "--encrypt", "--part-size", "5M"},
		"discs": {"--image", "stick/disc.iso", "--size", "6M", "--split"}, "encrypted disc": {"--image", "stick/disc.iso", "--encrypt"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(args ...string) *exec.Cmd {
				cmd := exec.Command(self, args...)
				cmd.Args[0] = "synchronizer" // what the test's program is then
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "SYNCHRONIZER_DATA="+l.Dir, "HOME="+dir)
				return cmd
			}
			write := append([]string{"media", "write", "-n", "win7"}, flags...)
			kills := 0
			for round := range 8 {
				cmd := run(write...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				goal := size(dir) + rand.Int64N(3<<20)
				over := false
				testkit.Until(t, "some bytes are written", func() bool {
					select {
					case <-ended:
						over = true
					default:
					}
					return over || size(dir) >= goal
				})
				if over {
					t.Logf("round %d went to its end", round)
					break
				}
				if err := cmd.Process.Signal(syscall.SIGKILL); err == nil {
					kills++
				}
				<-ended
			}
			if kills == 0 {
				t.Error("nothing was killed")
			}
			out, err := run(write...).CombinedOutput()
			if err != nil {
				t.Fatalf("the last run: %v\n%s", err, out)
			}
			files, err := filepath.Glob(filepath.Join(dir, "stick", "*"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for _, f := range files {
				if strings.HasSuffix(f, ".tmp") {
					t.Errorf("%s is left", f)
				}
				if out, err := run("media", "verify", f).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", f, err, out)
				}
			}
			again, err := run(write...).Output()
			if err != nil || !bytes.Contains(again, []byte("was there")) || bytes.Contains(again, []byte("written")) {
				t.Errorf("once more: %v\n%s", err, again)
			}
		})
	}
}

// size returns how many bytes the files of the medium have.
func size(dir string) int64 {
	files, _ := filepath.Glob(filepath.Join(dir, "stick", "*"))
	n := int64(0)
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			n += st.Size()
		}
	}
	return n
}
