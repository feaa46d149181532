// Package process tells processes apart that are not our children: a number alone may be that of another one by now.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID names a process for as long as the machine runs.
type ID struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // when it began, in clock ticks after the boot (proc(5), field 22 of stat)
}

// Of returns the ID of the process that has the number pid now. The error is [os.ErrProcessDone] where there is none, or none any more.
func Of(pid int) (ID, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) { // ESRCH: it went between open and read
		return ID{}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return ID{}, err
	}
	// The name of the program, in brackets, may have blanks and brackets itself.
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	const state, start = 0, 22 - 3
	if i < 0 || len(fields) <= start {
		return ID{}, fmt.Errorf("process %d: its stat is not understood", pid)
	}
	if fields[state] == "Z" || fields[state] == "X" {
		return ID{}, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	n, err := strconv.ParseUint(fields[start], 10, 64)
	return ID{pid, n}, err
}

// Alive reports whether the process is still there.
func (id ID) Alive() bool {
	now, err := Of(id.Pid)
	return err == nil && now == id
}

// Kill ends the process at once. It is no error when it has ended.
func (id ID) Kill() error {
	fd, err := unix.PidfdOpen(id.Pid, 0)
	if err != nil || !id.Alive() {
		if err == nil {
			unix.Close(fd)
		}
		return nil
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", id.Pid, err)
	}
	return nil
}

// lookEvery is how often Wait looks whether it was told to end.
const lookEvery = 200 * time.Millisecond

// Wait returns nil when the process has ended, or the cause of the end of ctx.
func (id ID) Wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(id.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", id.Pid, err)
	}
	defer unix.Close(fd)
	if !id.Alive() { // or what was opened is another one
		return nil
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(lookEvery.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", id.Pid, err)
		}
		if n > 0 {
			return nil
		}
	}
	return context.Cause(ctx)
}

// Boot returns the name of the present run of the machine: another one after each boot.
func Boot() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
