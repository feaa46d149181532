package demodisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
)

// What an Update does, in percent of the files.
const (
	replacedPercent = 3
	addedPercent    = 2
	movedPercent    = 1
	deletedPercent  = 1

	minFiles = 8       // so that each is done to at least one file
	maxAdded = 1 << 20 // bytes of an added file: a few large ones would outweigh all others
)

// Update changes an image in place, as an update of a system would: it replaces, adds, moves and deletes files, all
// chosen by the seed, and what is written goes where the file system has space. A second Update, with another seed,
// makes a third version.
func Update(ctx context.Context, path string, opts Options) (Report, error) {
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Report{}, fmt.Errorf("open image: %w", err)
	}
	report, err := update(ctx, image, opts.Seed)
	if err := errors.Join(err, image.Close()); err != nil {
		return Report{}, err
	}
	return report, nil
}

func update(ctx context.Context, image *os.File, seed uint64) (Report, error) {
	info, err := image.Stat()
	if err != nil {
		return Report{}, fmt.Errorf("size of image: %w", err)
	}
	v, err := openVolume(image, false)
	if err != nil {
		return Report{}, err
	}
	last, err := v.dated()
	if err != nil {
		return Report{}, err
	}
	u, err := newUpdater(ctx, v, seed)
	if err != nil {
		return Report{}, err
	}
	if err := u.run(ctx); err != nil {
		return Report{}, err
	}
	if err := v.finish(last, last.Add(updateInterval)); err != nil {
		return Report{}, err
	}
	u.report.Size = info.Size()
	return u.report, nil
}

// An updater carries out an Update.
type updater struct {
	v      *volume
	chance *chance
	files  []storedFile // in random order; taken from the front
	dirs   []string
	used   map[string]names // by directory
	report Report
}

func newUpdater(ctx context.Context, v *volume, seed uint64) (*updater, error) {
	stored, err := v.walk(ctx, ".")
	if err != nil {
		return nil, err
	}
	u := &updater{v: v, chance: newChance(seed), dirs: []string{"."}, used: map[string]names{".": {}}}
	for _, s := range stored {
		u.used[s.dir].use(s.name)
		if s.isDir {
			u.dirs = append(u.dirs, s.path())
			u.used[s.path()] = names{}
			continue
		}
		u.files = append(u.files, s)
		u.report.Total.add(s.size)
	}
	if len(u.files) < minFiles || len(u.dirs) < 2 {
		return nil, fmt.Errorf("update: %d files in %d directories are too few", len(u.files), len(u.dirs))
	}
	for i := len(u.files) - 1; i > 0; i-- {
		j := u.chance.upTo(i + 1)
		u.files[i], u.files[j] = u.files[j], u.files[i]
	}
	return u, nil
}

// run deletes first, so that the space is used again by what follows.
func (u *updater) run(ctx context.Context) error {
	total := len(u.files)
	steps := []struct {
		percent int
		do      func(storedFile) error
	}{
		{deletedPercent, u.delete},
		{movedPercent, u.move},
		{replacedPercent, u.replace},
		{addedPercent, u.add},
	}
	for _, s := range steps {
		for range max(1, total*s.percent/100) {
			if err := ctx.Err(); err != nil {
				return err
			}
			f := u.files[0]
			u.files = u.files[1:]
			if err := s.do(f); err != nil {
				return fmt.Errorf("update: %w", err)
			}
		}
	}
	return nil
}

func (u *updater) delete(f storedFile) error {
	u.report.Deleted.add(f.size)
	u.report.Total.Files--
	u.report.Total.Bytes -= f.size
	return u.v.remove(f.dir, f.name)
}

// move puts a file into another folder. The library cannot do this but by copying.
func (u *updater) move(f storedFile) error {
	to := f.dir
	for to == f.dir {
		to = u.dirs[u.chance.upTo(len(u.dirs))]
	}
	content, err := u.v.read(f.dir, f.name)
	if err != nil {
		return err
	}
	if _, err := u.v.write(to, u.used[to].take(f.name), content); err != nil {
		return err
	}
	u.report.Moved.add(f.size)
	return u.v.remove(f.dir, f.name)
}

// replace writes the new content beside the old and then changes the names, as updates do.
func (u *updater) replace(f storedFile) error {
	content, err := u.v.read(f.dir, f.name)
	if err != nil {
		return err
	}
	fresh := u.used[f.dir].take("update.new")
	size, err := u.v.write(f.dir, fresh, newEdited(content, u.chance))
	if err != nil {
		return err
	}
	if err := u.v.remove(f.dir, f.name); err != nil {
		return err
	}
	u.report.Replaced.add(size)
	u.report.Total.Bytes += size - f.size
	return u.v.rename(f.dir, fresh, f.name)
}

// add makes a new file of about the size of an old one: half of them beside it, the others in a folder of their own.
func (u *updater) add(like storedFile) error {
	dir := like.dir
	if n := u.report.Added.Files; n%2 == 1 {
		dir = u.folder(n / 2)
	}
	name := u.used[dir].take(fmt.Sprintf("added-%d.txt", u.report.Added.Files+1))
	size, err := u.v.write(dir, name, newText(min(like.size, maxAdded), u.chance))
	if err != nil {
		return err
	}
	u.report.Added.add(size)
	u.report.Total.add(size)
	return nil
}

// folder returns the directory for the nth file that gets none of the old ones.
func (u *updater) folder(n int) string {
	if n%maxDirFiles == 0 {
		dir := path.Join(".", u.used["."].take("update"))
		u.dirs = append(u.dirs, dir)
		u.used[dir] = names{}
	}
	return u.dirs[len(u.dirs)-1]
}
