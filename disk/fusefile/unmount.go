package fusefile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// helpers unmount what a user who is not root has mounted. The path of programs may have changed since then.
var helpers = []string{"fusermount3", "/bin/fusermount3", "fusermount", "/bin/fusermount"}

// unmount unmounts dir, by the system call or else by one of the programs. Errors wrap EBUSY when it is in use.
func unmount(dir string) error {
	err := syscall.Unmount(dir, 0)
	if err == nil || errors.Is(err, syscall.EBUSY) {
		return err
	}
	return unmountByHelper(err, helpers, "-u", dir)
}

// unmountByHelper has the first of the programs that is there do what the system call has refused with an error.
func unmountByHelper(refused error, programs []string, args ...string) error {
	for _, name := range programs {
		full, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		cmd := exec.Command(full, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		text, err := cmd.CombinedOutput()
		if err == nil {
			return nil
		}
		if text = bytes.TrimSpace(text); strings.HasSuffix(string(text), "Device or resource busy") { // strerror(EBUSY)
			return syscall.EBUSY
		}
		return fmt.Errorf("%w; %s: %w: %s", refused, name, err, text)
	}
	return fmt.Errorf("%w, and there is no %s", refused, programs[0])
}
