package main

import (
	"os"
	"syscall"
)

// ofOurs puts a program into a process group of its own and has the kernel end it when we are gone.
func ofOurs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// interrupt asks a program to end, with what it has started.
func interrupt(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGINT) // all that can be wrong is that it has ended
}
