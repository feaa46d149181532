package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// terminal is a pseudo-terminal with a program on it, and somebody in front of it.
type terminal struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	cmd    *exec.Cmd

	mu    sync.Mutex
	shown strings.Builder // all that was written to it
}

// onTerminal starts disksyncmgr on a terminal of that many columns, which is its controlling one.
func onTerminal(t *testing.T, columns uint16, args ...string) *terminal {
	t.Helper()
	master, slave, err := openTerminal(columns)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"disksyncmgr"}, args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, master: master, slave: slave, cmd: cmd}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.shown.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		_ = cmd.Wait()
		slave.Close()
		master.Close()
		<-done
		if t.Failed() {
			t.Logf("on the terminal:\n%q", x.text())
		}
	})
	return x
}

func openTerminal(columns uint16) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var number int
	var inner error
	err = raw.Control(func(fd uintptr) {
		if inner = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); inner != nil {
			return
		}
		if number, inner = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); inner != nil {
			return
		}
		inner = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns})
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// expect waits until the terminal shows the pattern.
func (x *terminal) expect(pattern string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testkit.Patience)
	for !re.MatchString(x.text()) {
		select {
		case <-tick.C:
		case <-deadline:
			x.t.Fatalf("the terminal does not show %s", pattern)
		}
	}
}

// types types something.
func (x *terminal) types(s string) {
	x.t.Helper()
	if _, err := x.master.WriteString(s); err != nil {
		x.t.Fatal(err)
	}
}

// exits waits for the end of the program.
func (x *terminal) exits(want int) {
	x.t.Helper()
	ended := make(chan struct{})
	go func() {
		_ = x.cmd.Wait() // the status is looked at below
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(testkit.Patience):
		x.t.Fatal("the program does not end")
	}
	if got := x.cmd.ProcessState.ExitCode(); got != want {
		x.t.Errorf("exit status %d, want %d", got, want)
	}
}

// echoes reports whether the terminal shows what is typed.
func (x *terminal) echoes() bool {
	x.t.Helper()
	raw, err := x.slave.SyscallConn()
	if err != nil {
		x.t.Fatal(err)
	}
	var tio *unix.Termios
	var inner error
	if err := raw.Control(func(fd uintptr) { tio, inner = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); err != nil || inner != nil {
		x.t.Fatal(err, inner)
	}
	return tio.Lflag&unix.ECHO != 0
}

// settle waits until the program has turned the echo off or on.
func (x *terminal) awaitEcho(want bool) {
	x.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(testkit.Patience)
	for x.echoes() != want {
		select {
		case <-tick.C:
		case <-deadline:
			x.t.Fatalf("the echo is not %t", want)
		}
	}
}

const ctrlC = "\x03"

// TestRegisterAsks: without --fingerprint, the person at the terminal compares it.
func TestRegisterAsks(t *testing.T) {
	l := lab.Start(t)
	state := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct {
		answer string
		exit   int
		shows  string
	}{
		{"n\n", 6, "not registered\r\n  safe: nothing was changed"},
		{"\n", 6, "code: DS-NOT-CONFIRMED"},
		{"maybe\n", 6, "code: DS-NOT-CONFIRMED"},
		{ctrlC, 130, "disksyncmgr: interrupted"},
		{"\x04", 1, "read answer"}, // the end of the input
		{"y\n", 0, "registered with " + l.URL},
	} {
		x := onTerminal(t, 80, "--state", state, "--standalone", "register", l.URL)
		x.expect(`has the fingerprint\r\n\r\n  ` + l.Fingerprint.String() + `\r\n\r\nIs it the one that the administrator gave you\? \[y/N\] `)
		x.types(c.answer)
		x.exits(c.exit)
		x.expect(regexp.QuoteMeta(c.shows))
		_, err := os.Stat(filepath.Join(state, "registration.json"))
		if registered := err == nil; registered != (c.exit == 0) {
			t.Errorf("after the answer %q registered is %t", c.answer, registered)
		}
	}
}

// TestPasswordAtTerminal: a password is not shown, and the terminal is as it was afterwards, however the program ends.
func TestPasswordAtTerminal(t *testing.T) {
	l := lab.Start(t)
	l.User(t, "alice")
	state := filepath.Join(t.TempDir(), "state")
	x := onTerminal(t, 80, "--state", state, "--standalone", "register", l.URL, "--fingerprint", l.Fingerprint.String())
	x.exits(0)
	for _, c := range []struct {
		answer string
		exit   int
		shows  string
	}{
		{ctrlC, 130, "disksyncmgr: interrupted"},
		{"\n", 2, "there was no password"},
		{"guess\n", 3, "user and password do not fit"},
		{lab.Password + "\n", 0, "logged in as alice"},
	} {
		x := onTerminal(t, 80, "--state", state, "--standalone", "login", "alice")
		x.expect("Password for alice: ")
		x.awaitEcho(false)
		x.types(c.answer)
		x.exits(c.exit)
		x.expect(regexp.QuoteMeta(c.shows))
		x.awaitEcho(true)
		if s := strings.TrimSpace(c.answer); s != "" && s != ctrlC && strings.Contains(x.text(), s) {
			t.Errorf("the password is on the terminal: %q", x.text())
		}
	}
}

// TestBarAtTerminal: a download draws one bar on one line, whatever the width, and leaves its last state above the receipt.
func TestBarAtTerminal(t *testing.T) {
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", lab.Disk(1, 2, 3, 4, 5, 6))
	l.Publish(t, "xp", lab.Disk(11, 12))
	l.Assign(t, "win7", "alice", 0)
	l.Assign(t, "xp", "alice", 0)
	line := l.Line(t, 0)
	state := filepath.Join(t.TempDir(), "state")
	onTerminal(t, 80, "--state", state, "--standalone", "register", line.URL, "--fingerprint", l.Fingerprint.String()).exits(0)
	x := onTerminal(t, 80, "--state", state, "--standalone", "login", "alice")
	x.awaitEcho(false)
	x.types(lab.Password + "\n")
	x.exits(0)

	// "Download from Synchronizer": the user picks.
	line.SetRate(4 << 20)
	x = onTerminal(t, 80, "--state", state, "--standalone", "download")
	x.expect(`  1  win7 version 1, 12.0 MiB\r\n  2  xp version 1, 4.0 MiB\r\nWhich one\? `)
	x.types("1\n")
	x.expect(`\r +[1-9][0-9]?% \[#+\.+\] +win7 v1  [^\r]*network [0-9.]+ MiB`)
	x.types(ctrlC)
	x.exits(130)
	x.expect(`%[^\r\n]*\r\ndisksyncmgr: interrupted`)

	line.SetRate(0)
	x = onTerminal(t, 40, "--state", state, "--standalone", "download", "win7")
	x.exits(0)
	x.expect(`\r +100% \[#+\] +win7 v1 [^\r\n]*\r\n`)
	x.expect(`VM win7, version 1 of win7, is ready\r\n`)
	screen, _, _ := strings.Cut(x.text(), "VM win7")
	for drawn := range strings.SplitSeq(screen, "\r") {
		drawn = strings.TrimRight(strings.NewReplacer("\x1b[K", "", "\x1b[0K", "").Replace(drawn), " \n")
		if utf8.RuneCountInString(drawn) >= 40 {
			t.Errorf("%q does not fit on the line", drawn)
		}
	}
	if n := strings.Count(screen, "\n"); n > 2 {
		t.Errorf("the bars, of the transfer and of the check, have %d lines: %q", n, screen)
	}
	x = onTerminal(t, 80, "--state", state, "--standalone", "remove", "win7")
	x.expect(`Remove VM win7 with everything that was written to its disks\? \[y/N\] `)
	x.types("no\n")
	x.exits(1)
	x.expect("disksyncmgr: not removed")
	x = onTerminal(t, 80, "--state", state, "--standalone", "remove", "win7")
	x.expect(`\[y/N\] `)
	x.types("yes\n")
	x.exits(0)
}
