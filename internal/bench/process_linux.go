package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ofOurs puts a program into a process group of its own and has the kernel end it when we are gone.
func ofOurs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalGroup tells a program and what it has started to end, at once or by itself.
func signalGroup(p *os.Process, atOnce bool) {
	sig := syscall.SIGINT
	if atOnce {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, sig) // all that can be wrong is that it has ended
}

// peakOf returns how much memory a process that has ended had at most: of the largest one, where it started others.
func peakOf(cmd *exec.Cmd) int64 {
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return u.Maxrss << 10
}

// ticksPerSecond is the unit of times in /proc; it is the same on every Linux.
const ticksPerSecond = 100

// cpuOf returns the processor time of a process that runs, with that of its children that have ended.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte(") ")) // the name before may have blanks
	fields := strings.Fields(string(rest))
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// forgetPeak starts the peak of a process's memory anew.
func forgetPeak(pid int) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/clear_refs", pid), os.O_WRONLY, 0)
	if err != nil {
		return // then it is the peak since its start
	}
	defer f.Close()
	_, _ = f.WriteString("5")
}

// peakSince returns the peak of a running process's memory since forgetPeak, or 0 where that is not known.
func peakSince(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// syncDisk waits until all that was written before is on the disk that a folder is on.
func syncDisk(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// dropCache has the system forget what it remembers of a file.
func dropCache(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// allocated returns how much of the disk a file takes; holes take none.
func allocated(info os.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}

// describeMachine returns what is measured on, a line for each thing.
func describeMachine() []string {
	var out []string
	first := func(file, key string) string {
		b, _ := os.ReadFile(file) // what is missing is left out
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return "unknown"
	}
	out = append(out, fmt.Sprintf("processor: %s, %d cores", first("/proc/cpuinfo", "model name"), cores()))
	if kb, err := strconv.ParseFloat(strings.TrimSuffix(first("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		out = append(out, fmt.Sprintf("memory: %.1f GiB", kb/(1<<20)))
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		out = append(out, fmt.Sprintf("kernel: %s %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:])))
	}
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			out = append(out, "system: "+strings.Trim(strings.TrimSpace(v), `"`))
		}
	}
	return out
}
