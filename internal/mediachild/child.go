package mediachild

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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
	loan    *loan // nil: it reads by itself
	notes   []string
	volumes []described

	patience patience
}

// described is a volume as the child describes it.
type described struct {
	partition int // 0: the whole device
	info      volume.Info
}

// start starts a child on a device that is open, or on a socket on which it can read a disk. first then has to be called.
func start(device *os.File, command []string) (_ *child, err error) {
	if slices.Contains(os.Args, Argument) { // a program that does not know the argument would start itself for ever
		return nil, errors.New("a child starts no children")
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	c := &child{sock: ours, said: &lastWords{}, ended: make(chan struct{}), patience: patience{sock: ours}}
	defer func() {
		if err != nil {
			c.sock.Close()
			c.release()
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
	return c, nil
}

// socketPair returns the two ends of a connection. Ours has deadlines.
func socketPair() (ours, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1]))
	}
	return os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket"), nil
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

// release gives up what was shared with a process that was killed.
func (c *child) release() {
	if c.memory != nil {
		_ = unix.Munmap(c.memory) // a mapping of ours
		c.memory = nil
	}
	if c.loan != nil {
		c.loan.end()
	}
}

// first waits for the greeting of a child, and asks it the first question, to which the answer has at most so many bytes. An error that is
// remoteError is the child's answer; another, with why it ended in it, is about who. Either ends the child.
func (c *child) first(op byte, who string, o Options, most int, read func(a *answer) error) error {
	err := c.greeting(o)
	if err == nil {
		err = c.ask(&message{b: []byte{op}}, o.Timeout)
	}
	var a *answer
	if err == nil {
		a, err = c.answer(o.Timeout, most)
	}
	if err == nil {
		err = read(a)
	}
	if err != nil && !c.told(err) {
		err = fmt.Errorf("%s %s", who, c.why(err))
	}
	if err != nil {
		c.kill()
	}
	return err
}

// told reports whether an error is one that the child tells, unlike one of the conversation with it.
func (c *child) told(err error) bool {
	told, ok := errors.AsType[*remoteError](err)
	if ok && c.loan != nil {
		c.loan.explain(told)
	}
	return ok
}

// greeting reads what a child says by itself: that it is one, and what could not be taken from it.
func (c *child) greeting(o Options) error {
	a, err := c.answer(o.Timeout, maxAnswer)
	if err != nil {
		return err
	}
	missing, err := readGreeting(a)
	if len(missing) > 0 && unsaid(missing) {
		o.Log.Info("media and disks are read with fewer restrictions than there could be", "missing", missing)
	}
	return err
}

// said holds the restrictions that this system was logged to lack. Each child would say the same.
var said sync.Map

func unsaid(missing []string) bool {
	_, known := said.LoadOrStore(strings.Join(missing, "\x00"), true)
	return !known
}

func readGreeting(a *answer) (missing []string, err error) {
	if string(a.take(len(magic))) != magic || a.u8() != version {
		return nil, errNonsense
	}
	missing = a.list()
	if !a.ok() {
		return nil, errNonsense
	}
	return missing, nil
}

// introduction reads what a child says of the volumes of its device.
func (c *child) introduction(a *answer) error {
	told := a.err()
	c.notes = a.list()
	for range min(a.u8(), maxVolumes) {
		c.volumes = append(c.volumes, described{
			partition: int(a.u16()),
			info: volume.Info{
				Type: a.text(maxText), Label: a.text(maxText), ID: a.text(maxText), Note: a.text(maxText), BlockSize: int(a.u32()),
			},
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
func (c *child) answer(timeout time.Duration, most int) (*answer, error) {
	if err := c.patience.begin(timeout); err != nil {
		return nil, err
	}
	b, err := receive(c.sock, most)
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
	return send(c.sock, m)
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
