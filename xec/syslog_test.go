package xec_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/xec"
)

// syslogd listens like a syslog daemon and returns its socket.
func syslogd(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = os.RemoveAll(dir)
	})
	return conn, socket
}

func TestLogInvocation(t *testing.T) {
	when := time.Date(2024, time.March, 5, 7, 8, 9, 0, time.UTC)
	head := fmt.Sprintf("<14>Mar  5 07:08:09 xec[%d]: invoked with: ", os.Getpid())
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"words", []string{"-s", "a.b", "set", "p", "v"}, head + "-s a.b set p v"},
		{"nothing", nil, head},
		{"control characters", []string{"a\nb\x1b\u0085c"}, head + "a b  c"},
		{"long", []string{strings.Repeat("x", 5000)}, (head + strings.Repeat("x", 5000))[:2048]},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn, socket := syslogd(t)
			xec.LogInvocation(socket, test.args, when)
			buffer := make([]byte, 10000)
			n, err := conn.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, string(buffer[:n])); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// A daemon that has stopped reading does not hold xec up.
func TestLogToStuckDaemon(t *testing.T) {
	_, socket := syslogd(t)
	flood, err := net.Dial("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	full := false
	for range 100_000 {
		if err := flood.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := flood.Write(make([]byte, 1000)); err != nil {
			full = true
			break
		}
	}
	if !full {
		t.Fatal("the socket takes everything")
	}
	start := time.Now()
	xec.LogInvocation(socket, []string{"x"}, start)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("logging took %v", took)
	}
}

func TestLogWithoutDaemon(t *testing.T) {
	xec.LogInvocation(filepath.Join(t.TempDir(), "none"), []string{"x"}, time.Now())
}

// What is logged, and when: before anything is tried, with the words as given.
func TestWhatIsLogged(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want [][]string
	}{
		{"help too", []string{"--help"}, [][]string{{"--help"}}},
		{"failures too", []string{"--session", "set", "p", "v"}, [][]string{{"--session", "set", "p", "v"}}},
		{"not with -q", []string{"-q", "--help"}, nil},
		{"not with --query", []string{"--help", "--query"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			var logged [][]string
			p := quietProgram(&stdout, &stderr, nil)
			p.Log = func(args []string) { logged = append(logged, args) }
			p.Run(context.Background(), test.args)
			if diff := cmp.Diff(test.want, logged); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
