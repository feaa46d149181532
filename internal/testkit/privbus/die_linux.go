package privbus

import "syscall"

// diesWithUs makes the kernel end the daemon when the thread that started it
// ends, so that a test killed for taking too long leaves no daemon behind.
func diesWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
