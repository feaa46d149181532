package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"disksync/image"
	"disksync/internal/demodisk"
	"disksync/internal/progress"
	"disksync/publish"
)

// A version is one version of the disk.
type version struct {
	file   string // in the work folder
	made   demodisk.Report
	stored publish.DiskResult
}

func (d *demo) binFolder() string { return filepath.Join(d.work, "bin") }

func (d *demo) path(name string) string { return filepath.Join(d.work, name) }

// makeThings builds the programs and meanwhile makes the disk.
func (d *demo) makeThings(ctx context.Context) error {
	d.step("The programs, and a disk")
	d.say("The programs are built (the first time this may take two minutes). Meanwhile a disk is made: a sparse raw "+
		"image with a partition table and a FAT32 file system that holds %s.", d.sourceName())
	v := &version{file: "v1.raw"}
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.buildPrograms(gctx) })
	g.Go(func() (err error) {
		v.made, err = demodisk.Build(gctx, d.path(v.file), demodisk.Options{Source: d.opts.source, MaxBytes: d.opts.maxBytes})
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	d.disks = append(d.disks, v)
	d.result("%s: a disk of %s with %d files, %s; all made in %v", v.file, progress.Bytes(v.made.Size),
		v.made.Total.Files, progress.Bytes(v.made.Total.Bytes), time.Since(began).Round(time.Second))
	return nil
}

func (d *demo) sourceName() string {
	if d.opts.source == "" {
		return "the Go toolchain's own files"
	}
	return "the files of " + d.opts.source
}

// buildPrograms builds the programs that are shown, from the module that we were started in.
func (d *demo) buildPrograms(ctx context.Context) error {
	m := d.machine("server")
	m.work = "."
	m.env = []string{"CGO_ENABLED=0"}
	where := cmdline("go", "list", "-m", "-f", "{{.Dir}}", "disksync")
	where.quiet = true
	root, err := m.run(ctx, where)
	if err != nil {
		return err
	}
	m.work = strings.TrimSpace(root)
	_, err = m.run(ctx, cmdline("go", "build", "-o", d.binFolder()+string(filepath.Separator),
		"./cmd/synchronizer", "./cmd/disksyncmgr", "./cmd/xec"))
	return err
}

// nextVersion copies the newest version of the disk and changes the copy as an update of its system would.
func (d *demo) nextVersion(ctx context.Context) error {
	newest := d.disks[len(d.disks)-1]
	v := &version{file: fmt.Sprintf("v%d.raw", len(d.disks)+1)}
	if err := copySparse(d.path(v.file), d.path(newest.file)); err != nil {
		return fmt.Errorf("copy %s: %w", newest.file, err)
	}
	var err error
	v.made, err = demodisk.Update(ctx, d.path(v.file), demodisk.Options{Seed: uint64(len(d.disks))})
	if err != nil {
		return err
	}
	d.disks = append(d.disks, v)
	d.say("%s is a copy of %s after an update of the system: %d files replaced, %d added, %d moved, %d deleted; %s were "+
		"written to it.", v.file, newest.file, v.made.Replaced.Files, v.made.Added.Files, v.made.Moved.Files,
		v.made.Deleted.Files, progress.Bytes(v.made.Replaced.Bytes+v.made.Added.Bytes+v.made.Moved.Bytes))
	return nil
}

// copySparse copies a file, leaving out what is zero.
func copySparse(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	piece := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, piece)
		ended := err != nil && isEnd(err)
		if err != nil && !ended {
			return err
		}
		if !image.IsZero(piece[:n]) {
			if _, err := out.WriteAt(piece[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if ended {
			return out.Truncate(at)
		}
	}
}
