package qmp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"disksync/internal/qmp"
	"disksync/internal/testkit"
)

// TestMonitor: the monitor of a real QEMU takes commands and says what is wrong with them.
func TestMonitor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "monitor")
	cmd := exec.Command(testkit.Tool(t, "qemu-system-x86_64"), "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:"+path+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var c *qmp.Client
	testkit.Until(t, "the monitor answers", func() bool {
		var err error
		c, err = qmp.Monitor(t.Context(), path)
		return err == nil
	})
	defer c.Close()
	var st struct {
		Status  string `json:"status"`
		Running bool   `json:"running"`
	}
	for _, want := range []struct{ command, status string }{{"", "prelaunch"}, {"cont", "running"}, {"stop", "paused"}} {
		if want.command != "" {
			if err := c.Do(t.Context(), want.command, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Do(t.Context(), "query-status", nil, &st); err != nil || st.Status != want.status {
			t.Errorf("after %q: %+v, %v", want.command, st, err)
		}
	}
	err := c.Do(t.Context(), "no-such", nil, nil)
	if e, ok := errors.AsType[*qmp.Error](err); !ok || e.Class != "CommandNotFound" {
		t.Errorf("%v", err)
	}
	if err := c.Do(t.Context(), "quit", nil, nil); err != nil {
		t.Error(err)
	}
}

// fake answers on a socket with what say returns for a line.
func fake(t *testing.T, greeting string, say func(line string) string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprint(conn, greeting)
				r := bufio.NewScanner(conn)
				for r.Scan() {
					fmt.Fprint(conn, say(r.Text()))
				}
			}()
		}
	}()
	return path
}

var number = regexp.MustCompile(`"id":(\d+)`)

// TestAgent: what others left in the channel does not confuse, and a guest that answers nothing, or rubbish, costs time only.
func TestAgent(t *testing.T) {
	t.Parallel()
	path := fake(t, "{\"return\":\"of somebody else\"}\n{\"ret", func(line string) string {
		id := number.FindStringSubmatch(line)[1]
		if strings.Contains(line, "guest-sync-delimited") {
			return "\xff{\"return\": 17}\n\xff{\"return\": " + id + "}\n"
		}
		return "{\"return\": 3, \"id\": " + id + "}\n"
	})
	c, err := qmp.Agent(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.Do(t.Context(), "guest-fsfreeze-freeze", nil, &n); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := qmp.Agent(ctx, fake(t, "", func(string) string { return "" })); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	long := fake(t, "", func(string) string { return "\xff" + strings.Repeat("x", 2<<20) })
	if _, err := qmp.Agent(t.Context(), long); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a message without an end: %v", err)
	}
	if _, err := qmp.Agent(t.Context(), fake(t, "", func(string) string { return "\xff]\n" })); err == nil {
		t.Error("rubbish was taken for an answer")
	}
	if _, err := qmp.Monitor(t.Context(), path); err == nil {
		t.Error("an agent was taken for a monitor")
	}
}
