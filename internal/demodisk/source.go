package demodisk

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
)

// maxDirFiles is how many files are stored in one directory: the library's work for each grows with their number.
const maxDirFiles = 128

// A sourceFile is a file to be stored: where it is read, and where it is put.
type sourceFile struct {
	from string
	dir  string
	name string
	size int64
}

// A plan is what a Build stores, in order.
type plan struct {
	files    []sourceFile
	dirs     map[string]bool
	bytes    int64
	maxBytes int64
	skipped  int
	renamed  int
}

// planTree chooses the files of a tree.
func planTree(ctx context.Context, tree fs.FS, maxBytes int64) (*plan, error) {
	p := &plan{maxBytes: maxBytes, dirs: make(map[string]bool)}
	if err := p.walk(ctx, tree, ".", "."); err != nil {
		return nil, err
	}
	if len(p.files) == 0 {
		return nil, fmt.Errorf("no files to fill a disk with")
	}
	return p, nil
}

// walk adds the files below the source directory from, to be stored in the directory to. A directory with many files
// keeps its first ones, and gets folders for the others: "part-2", "part-3".
func (p *plan) walk(ctx context.Context, tree fs.FS, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list, err := fs.ReadDir(tree, from)
	if err != nil {
		return fmt.Errorf("list source: %w", err)
	}
	used, part, count := names{}, to, 0
	for _, d := range list {
		source := path.Join(from, d.Name())
		if d.IsDir() {
			if err := p.walk(ctx, tree, source, path.Join(to, used.take(d.Name()))); err != nil {
				return err
			}
			continue
		}
		size, err := p.wanted(d)
		if err != nil {
			return fmt.Errorf("look at source %s: %w", source, err)
		}
		if size == 0 {
			p.skipped++
			continue
		}
		if count > 0 && count%maxDirFiles == 0 {
			part = path.Join(to, used.take(fmt.Sprintf("part-%d", count/maxDirFiles+1)))
		}
		count++
		p.add(sourceFile{from: source, dir: part, name: used.take(d.Name()), size: size})
	}
	return nil
}

// wanted returns the size of a file to be stored, or zero: the library cannot store empty files, nor anything but
// regular ones.
func (p *plan) wanted(d fs.DirEntry) (int64, error) {
	if !d.Type().IsRegular() {
		return 0, nil
	}
	info, err := d.Info()
	if err != nil {
		return 0, err
	}
	if p.maxBytes > 0 && p.bytes+info.Size() > p.maxBytes {
		return 0, nil
	}
	return info.Size(), nil
}

func (p *plan) add(f sourceFile) {
	p.files = append(p.files, f)
	p.bytes += f.size
	for dir := f.dir; !p.dirs[dir]; dir = path.Dir(dir) {
		p.dirs[dir] = true
	}
	if path.Join(f.dir, f.name) != f.from {
		p.renamed++
	}
}

// clusters returns how much of a disk the plan needs.
func (p *plan) clusters(clusterBytes int64) int64 {
	n := 2 * int64(len(p.dirs)) // a directory rarely needs more
	for _, f := range p.files {
		n += (f.size + clusterBytes - 1) / clusterBytes
	}
	return n
}

// toolchainRoot returns the root of the Go toolchain.
func toolchainRoot(ctx context.Context) (string, error) {
	if dir := os.Getenv("GOROOT"); dir != "" {
		return dir, nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the go toolchain: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
