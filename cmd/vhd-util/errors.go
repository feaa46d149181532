package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"disksync/internal/problem"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

const unchanged = "nothing was changed"

// usage is an error of the command line.
func usage(format string, args ...any) error {
	return problem.New("DS-USAGE", problem.Exit(syscall.EINVAL), nil, fmt.Sprintf(format, args...), unchanged, "see --help")
}

// refuse is an error that was understood where it happened.
func refuse(number syscall.Errno, err error, what, safe, next string) error {
	return problem.New(code(number), problem.Exit(number), err, what, safe, next)
}

// kind is a state that the library tells of, with what it means here.
type kind struct {
	is     error
	number syscall.Errno
	safe   string
	next   string
}

// kinds are looked through in order.
var kinds = []kind{
	{vhd.ErrSibling, syscall.EBUSY, "", "give the other disk a parent of its own first, or coalesce into a new file with -o"},
	{vhd.ErrCutsData, syscall.EINVAL, "", "empty that part of the disk first, or give --cut to lose what is there"},
	{vhd.ErrBeyondEnd, syscall.ERANGE, unchanged, ""},
	{vhd.ErrDeviceFull, syscall.ENOSPC, "what was there before is whole", "make the device larger"},
	{vhdfile.ErrInUse, syscall.EBUSY, unchanged, "end the other command first"},
	{vhd.ErrLogDiffers, syscall.EINVAL, "", "if you changed the disk on purpose, remove the log, FILE.log: what it holds is lost then"},
	{vhdfile.ErrNotEmpty, syscall.EEXIST, unchanged, "choose another name"},
	{vhdfile.ErrBadJournal, syscall.EINVAL, "", "if the disk is sound (vhd-util check), the journal is of no use any more"},
	{vhd.NoParent, syscall.ENOENT, "the disk itself is as it was", "name the parent's folder with --parents, or lead the disk to it with \"vhd-util modify -p\""},
	{vhd.WrongParent, syscall.EINVAL, "the disks are as they were", "find the parent with the uuid that the disk names"},
	{vhd.Cycle, syscall.ELOOP, "the disks are as they were", "lead one of them to its real parent with \"vhd-util modify -p\""},
	{vhd.TooDeep, syscall.ELOOP, "the disks are as they were", "coalesce the chain from its base on"},
	{vhd.NotVHD, syscall.EINVAL, unchanged, "if it is a raw disk, \"vhd-util convert\" reads it"},
	{vhd.Poisoned, syscall.EINVAL, unchanged, "a resize was interrupted: \"vhd-util revert -j\" takes it back, with its journal"},
	{vhd.BadSize, syscall.EINVAL, unchanged, ""},
	{vhd.SizeDiffers, syscall.ERANGE, unchanged, "let the ancestor grow with --grow"},
}

// explain turns any error into one with an exit status.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return problem.New("DS-INTERRUPTED", problem.Interrupted, nil, "interrupted",
			"a new file was removed, and a disk that is changed in place is whole", "run the same command again")
	}
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	what := once(err.Error())
	for _, k := range kinds {
		if errors.Is(err, k.is) {
			return refuse(k.number, nil, what, k.safe, k.next)
		}
	}
	if e, ok := errors.AsType[*vhd.Error](err); ok {
		next := "\"vhd-util check\" tells everything that is wrong"
		if e.Fault.Repairable() {
			next += "; \"vhd-util repair\" can mend this"
		}
		return refuse(syscall.EINVAL, nil, what, unchanged, next)
	}
	if errors.Is(err, fs.ErrExist) {
		return refuse(syscall.EEXIST, nil, what, unchanged, "choose another name")
	}
	number, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return refuse(syscall.EIO, nil, what, "", "")
	}
	switch number {
	case syscall.ENOSPC, syscall.EDQUOT:
		return refuse(number, nil, what, "what was there before is whole, and no unfinished file stays", "make room and do it again")
	}
	return refuse(number, nil, what, "", "")
}

// once drops what layers of the program said twice in a row, such as which file they open.
func once(text string) string {
	return strings.Join(slices.Compact(strings.Split(text, ": ")), ": ")
}

// code returns the stable code of an errno value.
func code(number syscall.Errno) string {
	switch number {
	case syscall.ENOENT:
		return "DS-VHD-MISSING"
	case syscall.EEXIST:
		return "DS-VHD-EXISTS"
	case syscall.EBUSY:
		return "DS-VHD-IN-USE"
	case syscall.EINVAL, syscall.ELOOP:
		return "DS-VHD-INVALID"
	case syscall.ENOSPC, syscall.EDQUOT:
		return "DS-VHD-NO-SPACE"
	case syscall.ERANGE:
		return "DS-VHD-RANGE"
	case syscall.ENOTSUP:
		return "DS-VHD-NOT-SUPPORTED"
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return "DS-VHD-NOT-ALLOWED"
	}
	return "DS-VHD-IO"
}
