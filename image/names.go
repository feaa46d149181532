package image

import (
	"fmt"
	"regexp"
	"strconv"
)

// Role is what a disk of a VM is for.
type Role string

// The roles. A static image has a system disk only; the others keep parts apart that are updated or backed up differently.
const (
	System      Role = "system"
	Application Role = "application"
	User        Role = "user"
)

// Roles lists all roles in the order in which disks are attached.
func Roles() []Role { return []Role{System, Application, User} }

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown role.
func (r *Role) UnmarshalText(text []byte) error {
	switch v := Role(text); v {
	case System, Application, User:
		*r = v
		return nil
	}
	return fmt.Errorf("role %q: want system, application or user", clip(text))
}

// Mode is how a VM's disks behave between starts and in backups.
type Mode string

// The modes; the names are those of the original.
const (
	// Static: the VM keeps its own disk, and all of it is backed up.
	Static Mode = "static"
	// StaticProfile: as Static, with the user's profile on a disk of its own; only that is backed up.
	StaticProfile Mode = "static-profile"
	// Dynamic: the system disk is as published at every start.
	Dynamic Mode = "dynamic"
)

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown mode.
func (m *Mode) UnmarshalText(text []byte) error {
	switch v := Mode(text); v {
	case Static, StaticProfile, Dynamic:
		*m = v
		return nil
	}
	return fmt.Errorf("mode %q: want static, static-profile or dynamic", clip(text))
}

// Version is the number of a version of an image, from 1 upwards. 0 means "none" or "the newest".
type Version uint32

// String returns the decimal number.
func (v Version) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVersion reads a decimal number from 1 upwards, without zeros before it.
func ParseVersion(s string) (Version, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || s[0] == '0' {
		return 0, fmt.Errorf("version %q: want a number from 1 upwards", clip([]byte(s)))
	}
	return Version(n), nil
}

// namePattern keeps names safe as parts of file names, URLs and lines of output.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName returns an error unless name can name an image, a VM, a user or a group: 1 to 64 of A-Z a-z 0-9 . _ -,
// beginning with a letter or digit.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: want 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first", clip([]byte(name)))
	}
	return nil
}
