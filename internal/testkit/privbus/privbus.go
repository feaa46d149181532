// Package privbus runs private D-Bus buses: a dbus-daemon of one's own, on a
// socket nobody else knows, with the rules of a session bus or of a system bus.
// Tests use it through package testkit; programs, such as a demonstration that
// must not touch the machine's buses, use it directly.
//
//	bus, err := privbus.Start(dir, privbus.System, "disksyncmgr.conf")
//	...
//	defer bus.Stop()
//	cmd.Env = append(os.Environ(), bus.Env()...)
package privbus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Daemon is the program that is the bus.
const Daemon = "dbus-daemon"

// maxSocketPath is the longest path a unix socket can have on Linux.
const maxSocketPath = 107

// Times a daemon gets for its start, and for its end after it was asked to.
const (
	startTime = 20 * time.Second
	stopTime  = 5 * time.Second
)

// Kind says how strict a bus is.
type Kind int

// The kinds of buses.
const (
	// Session is a bus on which everybody may do everything.
	Session Kind = iota
	// System is a bus on which names can be owned and methods called only where a
	// policy file allows it.
	System
)

// String returns the kind in the words of the daemon's configuration.
func (k Kind) String() string {
	if k == System {
		return "system"
	}
	return "session"
}

// Bus is a running bus. It is safe for concurrent use.
type Bus struct {
	// Address is where clients connect to.
	Address string

	kind    Kind
	process *os.Process
	exited  chan struct{} // closed when the daemon is gone
}

// Start starts a bus that keeps its socket and its configuration in dir, which
// must be there, be no one else's, and have a short path. The bus accepts
// connections when Start returns. It runs until Stop, or until this process ends.
// policyFiles are D-Bus configuration files, added after the bus's own rules.
func Start(dir string, kind Kind, policyFiles ...string) (*Bus, error) {
	socket, err := filepath.Abs(filepath.Join(dir, "bus"))
	if err != nil {
		return nil, fmt.Errorf("start a bus: %w", err)
	}
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("start a bus: path of the socket has %d bytes, at most %d work: %s",
			len(socket), maxSocketPath, socket)
	}
	text, err := config(kind, socket, policyFiles)
	if err != nil {
		return nil, fmt.Errorf("start a bus: %w", err)
	}
	file := filepath.Join(dir, "bus.conf")
	//nolint:forbidigo // not data of ours: it is of use only while this bus runs
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("start a bus: %w", err)
	}
	b, err := start(kind, file)
	if err != nil {
		return nil, fmt.Errorf("start a bus: %w", err)
	}
	return b, nil
}

// start runs the daemon and waits until it says where it listens.
func start(kind Kind, configFile string) (*Bus, error) {
	address, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer address.Close()
	var complaints bytes.Buffer
	cmd := exec.Command(Daemon, "--config-file="+configFile, "--nofork", "--nopidfile", "--print-address=3")
	cmd.ExtraFiles = []*os.File{theirs} // number 3 on their side
	cmd.Stderr = &complaints
	cmd.SysProcAttr = diesWithUs()

	b := &Bus{kind: kind, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// What makes the daemon die with us is tied to the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_ = theirs.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends does not matter, only that it does
		}
		close(b.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	b.process = cmd.Process
	if b.Address, err = readAddress(address); err != nil {
		// The daemon's complaints can be read once it is gone.
		return nil, errors.Join(err, b.Stop(), errors.New(strings.TrimSpace(complaints.String())))
	}
	return b, nil
}

// readAddress waits for the line in which the daemon says where it listens.
func readAddress(pipe *os.File) (string, error) {
	if err := pipe.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(io.LimitReader(pipe, 4096)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s did not say where it listens: %w", Daemon, err)
	}
	return strings.TrimSpace(line), nil
}

// Env returns the environment entry that makes programs take this bus for the
// session bus or the system bus, depending on its kind.
func (b *Bus) Env() []string {
	if b.kind == System {
		return []string{"DBUS_SYSTEM_BUS_ADDRESS=" + b.Address}
	}
	return []string{"DBUS_SESSION_BUS_ADDRESS=" + b.Address}
}

// Stop ends the bus and waits until its process is gone. To stop a bus again does
// nothing.
func (b *Bus) Stop() error {
	if err := b.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-b.exited:
		return nil
	case <-timer.C:
	}
	if err := b.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-b.exited
	return nil
}

// signal sends a signal to the daemon, if it is still there.
func (b *Bus) signal(s syscall.Signal) error {
	if err := b.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the bus: %w", err)
	}
	return nil
}
