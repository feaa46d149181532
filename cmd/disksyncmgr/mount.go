package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"disksync/disk/fusefile"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
)

// mount shows the disks of a point as raw files until it is interrupted or somebody unmounts them. A role that the
// point has no disk of is left out, unless it is the only one.
func mount(cmd *cobra.Command, d door, vm string, point image.Version, roles []image.Role, dir string) error {
	if point == 0 {
		return cli.UsageError("want `files VM@POINT mount DIR`: only the disks of a point stay as they are meanwhile")
	}
	reading := context.WithoutCancel(cmd.Context()) // who uses a file goes on until it is unmounted
	disks, err := openPointDisks(reading, d, vm, point, roles)
	if err != nil {
		return err
	}
	files := map[string]fusefile.Reader{}
	for r, p := range disks {
		defer p.Close()
		files[string(r)+".raw"] = p
	}
	report := func(name, op string, err error) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s: %s\n", name, op, problem.Printable(err.Error()))
	}
	f, err := fusefile.Mount(dir, fusefile.Readers(files), fusefile.Options{Report: report})
	if err != nil {
		return problem.New("DS-MOUNT", problem.Failure, err, "the disks cannot be shown as files", "nothing was changed",
			"name an empty folder of your own; the system needs /dev/fuse and, for users other than root, fusermount3 (Debian: apt install fuse3)")
	}
	for _, r := range image.Roles() {
		if p, ok := disks[r]; ok {
			fmt.Fprintf(cmd.OutOrStdout(), "%s, %d bytes\n", filepath.Join(dir, string(r)+".raw"), p.Size())
		}
	}
	err = f.Serve(cmd.Context(), func() {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is in use; it is unmounted when it no longer is\n", dir)
	})
	if err != nil {
		return problem.New("DS-MOUNT", problem.Failure, err, dir+" cannot be unmounted", "the backups are as they were",
			"unmount it as root: umount "+dir)
	}
	return nil
}
