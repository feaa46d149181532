package fusefile

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotEmpty is returned for a folder that has files, which a file system on it would hide.
var ErrNotEmpty = errors.New("the folder is not empty")

// prepare sees to it that dir is an empty folder, and returns its absolute name. What a killed process of ours left mounted there is
// unmounted.
func prepare(dir string) (string, error) {
	name, ours, err := findPlace(dir)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(name)
	if errors.Is(err, syscall.ENOTCONN) && ours {
		if err := unmountDead(name); err != nil {
			return "", err
		}
		entries, err = os.ReadDir(name)
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s: %w", dir, ErrNotEmpty)
	}
	return name, err
}

// unmountDead unmounts a file system whose server has gone.
func unmountDead(dir string) error {
	err := syscall.Unmount(dir, syscall.MNT_DETACH)
	if err != nil {
		err = unmountByHelper(err, helpers, "-u", "-z", dir)
	}
	if err != nil {
		return fmt.Errorf("unmount what a killed process left on %s: %w", dir, err)
	}
	return nil
}

// mounted reports whether a file system of ours is mounted on a folder.
func mounted(name string) (bool, error) {
	_, ours, err := findPlace(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return ours, err
}

// findPlace returns the name of a folder, absolute and without links, and whether it is on a file system of ours. The kernel knows both
// also where the file system's server has gone, so that a link to the folder can no longer be told from the folder.
func findPlace(dir string) (name string, ours bool, err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	number := strconv.Itoa(fd)
	if name, err = os.Readlink("/proc/self/fd/" + number); err != nil {
		return "", false, err
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + number)
	if err != nil {
		return "", false, err
	}
	_, rest, _ := strings.Cut(string(info), "mnt_id:")
	mount, _, _ := strings.Cut(rest, "\n")
	ours, err = isOurs(strings.TrimSpace(mount))
	return name, ours, err
}

// isOurs reports whether the mount with that id is of a file system of ours.
func isOurs(mount string) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		// As proc_pid_mountinfo(5) has it: the id is first, the type behind the dash.
		before, after, _ := strings.Cut(s.Text(), " - ")
		if id, _, _ := strings.Cut(before, " "); id == mount {
			return strings.HasPrefix(after, "fuse."+fsName+" "), nil
		}
	}
	return false, s.Err()
}
