package mediachild

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"disksync/volume"
)

// child is one process and what it said of itself.
type child struct {
	cmd     *exec.Cmd
	sock    *os.File
	memory  []byte // shared with it
	said    *lastWords
	ended   chan struct{}
	missing []string
	notes   []string
	volumes []described
}

// described is a volume as the child describes it.
type described struct {
	name string
	info volume.Info
}

// start starts a child on an open device and waits until it has said what there is. An error that is remoteError is the child's answer.
func start(device *os.File, command []string, timeout time.Duration) (_ *child, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	if err := unix.SetNonblock(pair[0], true); err != nil { // with deadlines
		return nil, errors.Join(err, unix.Close(pair[0]), theirs.Close())
	}
	c := &child{sock: os.NewFile(uintptr(pair[0]), "socket"), said: &lastWords{}, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			c.sock.Close()
			c.unmap()
		}
	}()
	shared, err := c.share()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shared memory: %w", err), theirs.Close())
	}
	defer shared.Close()
	c.cmd = &exec.Cmd{
		Path: command[0], Args: command[1:],
		// Of the surroundings it gets nothing; of a crash it tells one stack.
		Env: []string{"GOTRACEBACK=single"}, Dir: "/", Stderr: c.said, ExtraFiles: []*os.File{device, theirs, shared},
		// What a terminal sends to a command is not for it.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	err = c.cmd.Start()
	theirs.Close() // so that its end is seen here
	if err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is in ProcessState
		close(c.ended)
	}()
	err = c.greet(timeout)
	if _, told := errors.AsType[*remoteError](err); err != nil && !told {
		err = volume.Damaged("the program that reads the medium %s", c.why(err))
	}
	if err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// share makes the memory for the bytes of files. Its size is sealed: to take it away under a reader would end this process.
func (c *child) share() (*os.File, error) {
	fd, err := unix.MemfdCreate("disksync-media", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "memory")
	err = f.Truncate(sharedBytes)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		c.memory, err = unix.Mmap(fd, 0, sharedBytes, unix.PROT_READ, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (c *child) unmap() {
	if c.memory != nil {
		_ = unix.Munmap(c.memory) // a mapping of ours
		c.memory = nil
	}
}

// greet reads the first message.
func (c *child) greet(timeout time.Duration) error {
	a, err := c.answer(timeout)
	if err != nil {
		return err
	}
	return c.introduction(a)
}

func (c *child) introduction(a *answer) error {
	if string(a.take(len(magic))) != magic || a.u8() != version {
		return errNonsense
	}
	told := a.err()
	for _, list := range []*[]string{&c.missing, &c.notes} {
		for range a.u8() {
			*list = append(*list, a.text(maxText))
		}
	}
	for range min(a.u8(), maxVolumes) {
		c.volumes = append(c.volumes, described{
			name: a.text(maxText),
			info: volume.Info{Type: a.text(maxText), Label: a.text(maxText), ID: a.text(maxText), BlockSize: int(a.u32())},
		})
	}
	switch {
	case !a.ok():
		return errNonsense
	case told == nil && len(c.volumes) == 0:
		return errNonsense
	}
	return told
}

// answer waits for a message.
func (c *child) answer(timeout time.Duration) (*answer, error) {
	if err := c.sock.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	b, err := receive(c.sock, maxAnswer)
	if err != nil {
		return nil, err
	}
	return &answer{b: b}, nil
}

// ask sends a request.
func (c *child) ask(m *message, timeout time.Duration) error {
	if err := c.sock.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	return send(c.sock, m.b)
}

// killTime is how long a process that was killed may take to end: one that waits for a drive ends when the drive has answered.
const killTime = 2 * time.Second

// kill ends the process. It may be called more than once, and by several.
func (c *child) kill() {
	c.sock.Close()
	_ = c.cmd.Process.Kill() // it may have ended
	select {
	case <-c.ended:
	case <-time.After(killTime):
	}
}

// why says how a child ended that broke off a conversation with err.
func (c *child) why(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "took too long"
	case errors.Is(err, errNonsense):
		return "gave a wrong answer"
	}
	c.kill()
	select {
	case <-c.ended:
	default:
		return "does not answer"
	}
	if text := c.said.String(); text != "" {
		return "ended: " + text
	}
	return "ended: " + c.cmd.ProcessState.String()
}

// lastWords keeps the first line of what a process says. It is safe for concurrent use.
type lastWords struct {
	mu sync.Mutex
	b  []byte
}

const maxLastWords = 200

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p[:min(len(p), maxLastWords-len(w.b))]...)
	return len(p), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, _, _ := strings.Cut(string(w.b), "\n")
	return strings.ToValidUTF8(line, "?")
}
