package demodisk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// A File is a file in an image.
type File struct {
	Path   string // with slashes, from the root
	Size   int64
	SHA256 [sha256.Size]byte // of its content
}

// Check reads all files of an image, and returns them in the order of their paths.
func Check(ctx context.Context, path string) ([]File, error) {
	image, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	defer image.Close()
	v, err := openVolume(image, true)
	if err != nil {
		return nil, err
	}
	stored, err := v.walk(ctx, ".")
	if err != nil {
		return nil, err
	}
	var files []File
	for _, s := range stored {
		if s.isDir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := v.check(s)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return files, nil
}

// check reads one file.
func (v *volume) check(s storedFile) (File, error) {
	f := File{Path: s.path(), Size: s.size}
	content, err := v.read(s.dir, s.name)
	if err != nil {
		return File{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, content)
	if err != nil {
		return File{}, fmt.Errorf("read %s: %w", f.Path, err)
	}
	if n != s.size {
		return File{}, fmt.Errorf("read %s: %d bytes of %d", f.Path, n, s.size)
	}
	copy(f.SHA256[:], sum.Sum(nil))
	return f, nil
}

// A storedFile is a file or directory in a volume.
type storedFile struct {
	dir   string
	name  string
	size  int64
	isDir bool
}

func (s storedFile) path() string { return path.Join(s.dir, s.name) }

// walk returns what is below a directory, each directory before its content.
func (v *volume) walk(ctx context.Context, dir string) ([]storedFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := v.list(dir)
	if err != nil {
		return nil, err
	}
	var all []storedFile
	for _, d := range list {
		info, err := d.Info()
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", dir, err)
		}
		s := storedFile{dir: dir, name: d.Name(), size: info.Size(), isDir: d.IsDir()}
		all = append(all, s)
		if !s.isDir {
			continue
		}
		below, err := v.walk(ctx, s.path())
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}
