package guest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/internal/testkit"
)

// Accelerator returns what qemu-system should use here: kvm, or tcg where there is none. A /dev/kvm without support by the processor
// is not enough: it cannot run firmware.
func Accelerator() string {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err == nil && regexp.MustCompile(`\b(vmx|svm)\b`).Match(cpu) && unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
		return "kvm"
	}
	return "tcg"
}

// Machine is a guest that this package started, for tests of what serves its disks.
type Machine struct {
	*Console
	cmd    *exec.Cmd
	stderr *testkit.Buffer
	ended  chan error
}

// Start starts a guest from disks, each as the value of QEMU's -drive without "if" and "id", such as
// "driver=raw,file.driver=nbd,file.server.type=unix,…". It is killed when the test ends.
func Start(t testing.TB, drives ...string) *Machine {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "console")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	args := []string{
		"-accel", Accelerator(), "-m", "256", "-nodefaults", "-display", "none", "-no-reboot",
		"-chardev", "socket,id=console,path=" + sock, "-serial", "chardev:console",
	}
	for i, d := range drives {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,%s", i, d), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	m := &Machine{cmd: exec.Command(testkit.Tool(t, "qemu-system-x86_64"), args...), stderr: &testkit.Buffer{}, ended: make(chan error, 1)}
	m.cmd.Stderr = m.stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		m.ended <- m.cmd.Wait()
		l.Close() // nobody will come any more
	}()
	t.Cleanup(m.Kill)
	conn, err := l.Accept()
	if err != nil {
		t.Fatalf("qemu %s: %s", strings.Join(args, " "), m.stderr)
	}
	t.Cleanup(func() { conn.Close() })
	m.Console = NewConsole(t, conn)
	return m
}

// Kill ends the guest as a loss of power does.
func (m *Machine) Kill() {
	_ = m.cmd.Process.Kill() // it may have ended already
	m.ended <- <-m.ended
}
