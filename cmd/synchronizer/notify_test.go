package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"disksync/internal/testkit"
)

// TestTellsSystemd: systemd hears that the service is ready when the data folder is there and administrators are served.
func TestTellsSystemd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, data := filepath.Join(dir, "notify"), filepath.Join(dir, "data")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := testkit.Build(dir, "cmd/synchronizer"); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "synchronizer")
	cmd := exec.Command(program, "serve", "--data", data, "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), notifySocket+"="+socket)
	testkit.StartProgram(t, cmd)
	if err := l.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if out, err := exec.Command(program, "--data", data, "user", "list").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
