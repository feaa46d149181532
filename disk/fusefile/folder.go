package fusefile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNotEmpty is returned for a folder that has files, which a file system on it would hide.
var ErrNotEmpty = errors.New("the folder is not empty")

// prepare sees to it that dir is an empty folder. What a killed process of ours left mounted there is unmounted.
func prepare(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, syscall.ENOTCONN) && left(dir) {
		if err := unmountDead(dir); err != nil {
			return err
		}
		entries, err = os.ReadDir(dir)
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s: %w", dir, ErrNotEmpty)
	}
	return err
}

// unmountDead unmounts a file system whose server has gone.
func unmountDead(dir string) error {
	err := syscall.Unmount(dir, syscall.MNT_DETACH)
	if err == nil {
		return nil
	}
	// A user who is not root needs the program.
	if text, helperErr := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput(); helperErr != nil {
		return fmt.Errorf("unmount what a killed process left on %s: %w; fusermount3: %w: %s", dir, err, helperErr, text)
	}
	return nil
}

// left reports whether a file system of ours is mounted on dir.
func left(dir string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	defer f.Close()
	found := false
	for s := bufio.NewScanner(f); s.Scan(); {
		// As proc_pid_mountinfo(5) has it: blanks in names are octal.
		before, after, _ := strings.Cut(s.Text(), " - ")
		if words := strings.Fields(before); len(words) > 4 && strings.ReplaceAll(words[4], `\040`, " ") == dir {
			found = strings.HasPrefix(after, "fuse."+fsName+" ") // the last one is on top
		}
	}
	return found
}
