//go:build !linux

package main

import (
	"os"
	"syscall"
)

// ofOurs does nothing here: a program gets an interrupt from the terminal along with us.
func ofOurs() *syscall.SysProcAttr { return nil }

// interrupt asks a program to end.
func interrupt(p *os.Process) {
	_ = p.Signal(os.Interrupt) // all that can be wrong is that it has ended
}
