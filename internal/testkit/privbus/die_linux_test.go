package privbus_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/internal/testkit/privbus"
)

// busFolder makes the test program start a bus there instead of testing, say
// where it listens, and wait for the end of its input.
const busFolder = "PRIVBUS_TEST_FOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(busFolder); dir != "" {
		bus, err := privbus.Start(dir, privbus.Session)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(bus.Address)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A program that is killed leaves no daemon behind.
func TestDaemonDiesWithItsStarter(t *testing.T) {
	starter := exec.Command(os.Args[0])
	starter.Env = append(os.Environ(), busFolder+"="+shortDir(t))
	starter.Stderr = os.Stderr
	stdin, err := starter.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dbus.Connect(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait()      // it was killed and says so
	<-conn.Context().Done() // the daemon hung up
	if _, err := dbus.Connect(strings.TrimSpace(line)); err == nil {
		t.Error("the daemon takes connections after its starter was killed")
	}
}
