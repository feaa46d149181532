package vhdfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"disksync/vhd"
)

// Disk is a vhd.Disk with the files that it uses. It is safe for concurrent use until Close.
type Disk struct {
	*vhd.Disk
	// Paths are the members' files, leaf first.
	Paths []string
	files []*os.File
}

// OpenDisk opens the VHD at name, a regular file or a block device, for writing, and its parents for reading, which are found
// as by [OpenChain]. The files are locked, see [Lock], against others that use this package; of all else the caller sees to it that
// nothing writes to them.
//
// A file that [LogName] tells is used as the disk's log, see [vhd.WithLog], when it is there.
func OpenDisk(name string, o Options) (*Disk, error) {
	d, err := openDisk(name, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return d, nil
}

func openDisk(name string, o Options) (*Disk, error) {
	c := &Chain{}
	if err := c.resolve(name, o); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	d := &Disk{Paths: c.Paths, files: c.files}
	if err := d.openLeaf(c, name); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return d, nil
}

// openLeaf opens the leaf once more, for writing.
func (d *Disk) openLeaf(c *Chain, name string) error {
	f, size, err := regular(func() (*os.File, error) { return os.OpenFile(name, os.O_RDWR, 0) })
	if err != nil {
		return err
	}
	was, err := d.files[0].Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	is, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if !os.SameFile(was, is) {
		return errors.Join(errors.New("the file was replaced just now; try again"), f.Close())
	}
	var opts []vhd.Option
	if !is.Mode().IsRegular() {
		opts = append(opts, vhd.Device())
	}
	if err := d.lock(f); err != nil {
		return errors.Join(err, f.Close())
	}
	log, err := openLog(name, is)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if log != nil {
		boot, err := BootID()
		if err != nil {
			return errors.Join(err, log.Close(), f.Close())
		}
		opts = append(opts, vhd.WithLog(log, boot))
		d.files = append(d.files, log)
	}
	if d.Disk, err = vhd.OpenDisk(contentFile{f}, size, c.Members()[1:], opts...); err != nil {
		if log != nil {
			err = errors.Join(err, log.Close())
		}
		return errors.Join(err, f.Close())
	}
	readOnly := d.files[0]
	d.files[0] = f
	return readOnly.Close()
}

// contentFile is a file whose times need not be durable.
type contentFile struct{ *os.File }

// Sync returns when content and length are on stable storage.
func (f contentFile) Sync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// lock locks the leaf for writing and the parents for reading.
func (d *Disk) lock(leaf *os.File) error {
	for _, f := range d.files[1:] {
		if err := Lock(f, false); err != nil {
			return err
		}
	}
	return Lock(leaf, true)
}

// LogName returns the name of the log of the disk at name.
func LogName(name string) string { return name + ".log" }

// settle brings to the disk what its log holds, if there is any and nobody uses the disk.
func settle(name string, o Options) error {
	st, err := os.Stat(LogName(name))
	if err != nil || st.Size() <= vhd.EmptyLogSize {
		return nil // there is none, as a rule
	}
	d, err := openDisk(name, o)
	if errors.Is(err, ErrInUse) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.Close()
}

// openLog opens the log of a disk; nil is none.
func openLog(name string, disk fs.FileInfo) (*os.File, error) {
	if !disk.Mode().IsRegular() {
		return nil, nil
	}
	st, err := os.Lstat(LogName(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", LogName(name))
	}
	return os.OpenFile(LogName(name), os.O_RDWR, 0)
}

// Close makes everything written durable, as [vhd.Disk.Sync] does, and closes the files.
func (d *Disk) Close() error {
	return errors.Join(d.Sync(), closeAll(d.files))
}

// closeAll closes files and lets go of their locks, also where a process that was just started has them, too, for a moment.
func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // there may be none
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
