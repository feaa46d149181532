package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/mediachild"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/internal/remotedisk"
	"disksync/volume"
)

func newFiles(o *options) *cobra.Command {
	var f filesFlags
	c := &cobra.Command{
		Use: "files VM[@POINT] (ls [PATH] | get PATH [FILE] | mount DIR)", Short: "List and copy files of a VM's disk, or of a point of its backups", Args: cobra.RangeArgs(2, 4),
		Long: `Reads the file systems of a disk without deploying or starting it: NTFS, ext2 to ext4, FAT and exFAT, on the
disk as it is now, or with @POINT as the point has it; of that only what is read comes over the line.

"ls" lists a folder, "get" copies a file. A PATH begins with the number of the partition, as /2/Users;
/0 is a file system without partitions. "ls" alone lists the file systems.

"mount" shows the disks of a point as raw files in an empty folder, such as DIR/system.raw, for other programs
to read. It goes on until it is interrupted or the folder is unmounted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			n := map[string][2]int{"ls": {2, 3}, "get": {3, 4}, "mount": {3, 3}}[args[1]]
			if len(args) < n[0] || len(args) > n[1] {
				return cli.UsageError("want `files VM[@POINT] ls [PATH]`, `files VM[@POINT] get PATH [FILE]` or `files VM@POINT mount DIR`")
			}
			var r image.Role
			if err := r.UnmarshalText([]byte(f.role)); err != nil {
				return cli.UsageError("%v", err)
			}
			vm, point, err := parsePoint(args[0])
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(d door) error {
				return lend(cmd, d, f.identity, func(d door) error {
					if args[1] == "mount" {
						roles := image.Roles()
						if cmd.Flags().Changed("role") {
							roles = []image.Role{r}
						}
						return mount(cmd, d, vm, point, roles, args[2])
					}
					disk, err := d.OpenDisk(cmd.Context(), vm, point, r)
					if err != nil {
						return err
					}
					defer disk.Close()
					return f.run(cmd, disk, args[1], args[2:])
				})
			})
		},
	}
	c.Flags().StringVar(&f.role, "role", string(image.System), "`disk` to look into: system, application or user; with mount, all without it")
	c.Flags().StringVar(&f.identity, "identity", "", "open encrypted backups with the keys in this `file`, which are not kept; -: those on stdin")
	c.Flags().BoolVarP(&f.long, "long", "l", false, "with ls: sizes too")
	c.Flags().BoolVar(&f.force, "force", false, "with get: in place of a file that is there")
	return c
}

type filesFlags struct {
	role        string
	identity    string
	long, force bool
}

// run looks into a disk by a child: a guest chooses every byte of its file systems.
func (f *filesFlags) run(cmd *cobra.Command, disk remotedisk.Source, verb string, args []string) error {
	d, err := mediachild.OpenDisk(cmd.Context(), "the disk", disk, mediachild.Options{})
	if err == nil {
		defer d.Close()
		err = f.look(cmd, d, verb, args)
	} else {
		err = cannotLook(err, "the disk")
	}
	if err != nil && cmd.Context().Err() != nil {
		return context.Cause(cmd.Context())
	}
	return err
}

func (f *filesFlags) look(cmd *cobra.Command, d *mediachild.Device, verb string, args []string) error {
	number, name, err := splitPath(optional(args))
	if err != nil {
		return err
	}
	if number < 0 {
		if verb == "get" {
			return cli.UsageError("name a file, such as /1/folder/file")
		}
		return listVolumes(cmd.OutOrStdout(), d)
	}
	for _, v := range d.Volumes() {
		if v.Partition() != number {
			continue
		}
		if verb == "ls" {
			return f.list(cmd.OutOrStdout(), v, name)
		}
		return f.get(cmd, v, name, args[1:])
	}
	return problem.New("DS-NO-FILE", problem.NotFound, nil, fmt.Sprintf("the disk has no file system /%d that can be read", number), "", "`files VM ls` lists them")
}

// splitPath parts /2/folder/file into the number of the partition and a name in it, "." for its root; the number is -1 for the disk.
func splitPath(p string) (number int, name string, err error) {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return -1, "", nil
	}
	first, rest, _ := strings.Cut(p, "/")
	n, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return 0, "", cli.UsageError("/%s: a path begins with the number of a partition, as /1/folder", problem.Printable(p))
	}
	if rest == "" {
		rest = "."
	}
	return int(n), rest, nil
}

func listVolumes(w io.Writer, d *mediachild.Device) error {
	var rows [][]string
	for _, v := range d.Volumes() {
		i := v.Info()
		rows = append(rows, []string{fmt.Sprintf("/%d", v.Partition()), problem.Printable(i.Type), problem.Printable(i.Label), problem.Printable(i.Note)})
	}
	if err := cli.Table(w, []string{"PATH", "TYPE", "LABEL", "NOTE"}, rows); err != nil {
		return err
	}
	for _, n := range d.Notes() {
		fmt.Fprintln(os.Stderr, "note: "+problem.Printable(n))
	}
	return nil
}

func (f *filesFlags) list(w io.Writer, v volume.Volume, dir string) error {
	entries, err := v.ReadDir(dir)
	out := bufio.NewWriter(w)
	for _, e := range entries {
		name := problem.Printable(e.Name)
		if e.Dir {
			name += "/"
		}
		switch {
		case !f.long:
			fmt.Fprintln(out, name)
		case e.Dir:
			fmt.Fprintf(out, "%14s  %s\n", "-", name)
		default:
			fmt.Fprintf(out, "%14d  %s\n", e.Size, name)
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return cannotLook(err, dir)
}

// get copies a file. It gets its name when it is complete.
func (f *filesFlags) get(cmd *cobra.Command, v volume.Volume, name string, dest []string) error {
	to := path.Base(name)
	if len(dest) > 0 {
		to = dest[0]
		if st, err := os.Stat(to); err == nil && st.IsDir() {
			to = filepath.Join(to, path.Base(name))
		}
	}
	in, err := v.Open(name)
	if err != nil {
		return cannotLook(err, name)
	}
	defer in.Close()
	fsys, err := durable.Dir(filepath.Dir(to))
	if err != nil {
		return problem.New("DS-EXPORT", problem.Failure, err, "cannot write to the folder of "+to, "nothing was changed", "name a file in a folder that is there")
	}
	base := filepath.Base(to)
	if _, err := fsys.Stat(base); err == nil && !f.force {
		return problem.New("DS-EXISTS", problem.Busy, nil, to+" is there already", "it is as it was", "give another name, or --force")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := base + "." + deploy.NewUUID().String() + durable.TempSuffix
	if err := copyFile(cmd, fsys, temp, in); err != nil {
		return errors.Join(cannotLook(err, name), durable.Remove(fsys, temp))
	}
	if err := durable.Publish(fsys, temp, base); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", problem.Printable(to), progress.Bytes(in.Size()))
	return nil
}

func copyFile(cmd *cobra.Command, fsys durable.FS, temp string, in volume.File) error {
	out, err := fsys.Create(temp, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	meter := progress.New(os.Stderr)
	defer meter.Done()
	buf := make([]byte, image.BlockSize)
	for off := int64(0); off < in.Size(); {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		p := buf[:min(int64(len(buf)), in.Size()-off)]
		if n, err := in.ReadAt(p, off); n < len(p) {
			return err
		}
		if _, err := out.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
		meter.Show("get", off, in.Size(), "")
	}
	return out.Sync()
}

// cannotLook explains an error of a file system.
func cannotLook(err error, what string) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok || err == nil {
		return err
	}
	what = problem.Printable(what)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid):
		return problem.New("DS-NO-FILE", problem.NotFound, nil, "there is no file or folder "+what, "", "names have to be as `ls` shows them, the case of letters included")
	case errors.Is(err, volume.ErrOther), errors.Is(err, volume.ErrUnsupported), errors.Is(err, volume.ErrLimit):
		return problem.New("DS-NO-FILE", problem.NotFound, err, "cannot read "+what, "", "`export` and `restore` give the disk as a whole")
	case errors.Is(err, volume.ErrDamaged):
		return problem.New("DS-FILES-DAMAGED", problem.Damaged, err, "cannot read "+what, "the disk is as it was",
			"the disk's own system may be able to repair it; `restore` gives the disk as a whole")
	}
	return err
}
