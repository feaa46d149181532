package media

import (
	"os"

	"golang.org/x/sys/unix"
)

// fatLimit is the length of the largest file that FAT32 takes, in bytes.
const fatLimit = 4<<30 - 1

// largestFile returns how large a file can be on the file system of a folder, in bytes; 0: large enough for everything, or not known.
func largestFile(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.MSDOS_SUPER_MAGIC {
		return fatLimit
	}
	return 0
}

// throughProgram reports whether the file system of a folder is a program.
func throughProgram(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC
}

// isFolder reports whether a path is a folder, rather than a file or a device.
func isFolder(name string) (bool, error) {
	st, err := os.Stat(name)
	if err != nil {
		return false, err
	}
	return st.IsDir(), nil
}
