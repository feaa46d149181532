//go:build !linux

package privbus

import "syscall"

// diesWithUs can do nothing here: only Linux ends a process with its parent.
func diesWithUs() *syscall.SysProcAttr {
	return nil
}
