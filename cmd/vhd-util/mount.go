package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/disk/fusefile"
	"disksync/disk/nbd"
)

func newMount(o *options) *cobra.Command {
	m := &mount{serve: serve{options: o}}
	c := &cobra.Command{
		Use: "mount FILE DIR", Short: "Show a disk as a raw file, by FUSE",
		Long: `Shows the disk, through its parents, as the raw file DIR/NAME.raw, for any program that reads files: fsck,
losetup, mount -o loop, testdisk. Nothing is copied. DIR is an empty folder. When the file is there one line
with its name is printed. It goes on until it is interrupted, or DIR is unmounted by another program; what
is in use then is waited for.

With --writable the file can be written, in its length: what was written is there when this program is killed,
and when the power fails as far as fsync was called. For that FILE.log lies beside the disk in the meantime.

The disk is locked against other commands that write, and its parents are, too.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return m.run(cmd, args[0], args[1]) },
	}
	f := c.Flags()
	f.BoolVar(&m.writable, "writable", false, "let the file be written")
	f.BoolVar(&m.allowOther, "allow-other", false, "let root read it, too, where another user mounts it (see user_allow_other in fuse.conf)")
	f.BoolVar(&m.raw, "raw", false, "FILE is a raw disk")
	return c
}

type mount struct {
	serve
	writable, allowOther bool
}

func (m *mount) run(cmd *cobra.Command, name, dir string) error {
	m.readOnly = !m.writable
	d, err := m.open(name)
	if err != nil {
		return err
	}
	base := filepath.Base(name)
	raw := strings.TrimSuffix(base, filepath.Ext(base)) + ".raw"
	o := fusefile.Options{Writable: m.writable, AllowOther: m.allowOther, Report: reporter(cmd.ErrOrStderr())}
	f, err := fusefile.Mount(dir, map[string]nbd.Device{raw: d}, o)
	if err != nil {
		return errors.Join(cannotMount(err, dir), d.Close())
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, %d bytes: %s\n", name, d.Size(), filepath.Join(dir, raw))
	served := f.Serve(cmd.Context(), func() {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is in use (a loop device? see losetup -j); it is unmounted when it no longer is\n", dir)
	})
	if served != nil {
		served = refuse(syscall.EPERM, served, "cannot unmount "+dir, "what was written is in the VHD", "unmount it as root: umount "+dir)
	}
	return errors.Join(err, served, d.Close())
}

func cannotMount(err error, dir string) error {
	switch {
	case errors.Is(err, fusefile.ErrNoFUSE):
		return refuse(syscall.ENOTSUP, nil, err.Error(), unchanged,
			"load the kernel's module (modprobe fuse), or give the container the device; \"vhd-util serve\" needs none")
	case errors.Is(err, fusefile.ErrNotEmpty):
		return refuse(syscall.EEXIST, nil, dir+" is not empty", unchanged, "name an empty folder")
	case errors.Is(err, syscall.ENOTDIR):
		return refuse(syscall.EINVAL, nil, dir+" is no folder", unchanged, "name an empty folder")
	case errors.Is(err, fs.ErrNotExist):
		return refuse(syscall.ENOENT, nil, "there is no folder "+dir, unchanged, "make it")
	}
	return refuse(syscall.EPERM, err, "cannot mount a file system on "+dir, unchanged,
		"own the folder, and work as root or install fusermount3 (Debian: apt install fuse3)")
}
