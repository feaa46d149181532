package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/disk"
	"disksync/disk/nbd"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

func newServe(o *options) *cobra.Command {
	s := &serve{options: o}
	c := &cobra.Command{
		Use: "serve FILE --socket PATH", Short: "Make a disk a block device for QEMU and other clients of NBD",
		Long: `Serves the disk, through its parents, on a unix socket, to all clients of the NBD protocol: QEMU, qemu-img,
nbdcopy, fio and others. When it listens it prints one line with the address for clients. It goes on until
it is interrupted; then it answers what is under way and makes everything durable.

What a client was told to be written is there when this program is killed, and when the power fails as far
as the client flushed it. For that FILE.log lies beside the disk in the meantime.

The disk is locked against other commands that write, and its parents are, too.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&s.socket, "socket", "", "the unix socket to listen on, at this `path`")
	f.BoolVar(&s.readOnly, "read-only", false, "refuse all writes")
	f.BoolVar(&s.raw, "raw", false, "FILE is a raw disk")
	required(c, "socket")
	return c
}

type serve struct {
	*options
	socket        string
	readOnly, raw bool
}

// served is a disk with its files.
type served interface {
	nbd.Device
	io.Closer
}

func (s *serve) run(cmd *cobra.Command, name string) error {
	d, err := s.open(name)
	if err != nil {
		return err
	}
	l, err := listen(s.socket)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, %d bytes: nbd+unix:///?socket=%s\n", name, d.Size(), s.socket)
	if err == nil {
		err = nbd.Serve(cmd.Context(), l, map[string]nbd.Device{"": d}, nbd.Options{ReadOnly: s.readOnly, Report: reporter(cmd.ErrOrStderr())})
	}
	// Nobody is connected any more.
	_ = l.Close() // done already but for an error above
	return errors.Join(err, d.Close())
}

// reporter prints errors for the one who started the program.
func reporter(w io.Writer) func(export, op string, err error) {
	var mu sync.Mutex
	return func(_, op string, err error) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s: %v\n", op, err)
	}
}

func (s *serve) open(name string) (served, error) {
	switch {
	case s.raw:
		return s.openRaw(name)
	case s.readOnly:
		c, err := s.chain(name)
		if err != nil {
			return nil, err
		}
		if err := c.Lock(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return &readOnly{disk.NewReadOnly(c.Chain), c}, nil
	}
	drop, err := makeLog(canonical(name))
	if err != nil {
		return nil, err
	}
	d, err := s.disk(name)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	return &written{disk.NewLive(d.Disk), d, drop}, nil
}

// makeLog sees to it that there is a log beside a disk that is a file. drop removes it when nothing is in it.
func makeLog(name string) (drop func() error, err error) {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return func() error { return nil }, err
	}
	dir, err := durable.Dir(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	log := filepath.Base(vhdfile.LogName(name))
	if _, err := dir.Stat(log); errors.Is(err, fs.ErrNotExist) {
		f, err := dir.Create(log, st.Mode().Perm())
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return func() error {
		st, err := dir.Stat(log)
		if err == nil && st.Size() <= vhd.EmptyLogSize {
			err = durable.Remove(dir, log)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody tidied up
		}
		return err
	}, nil
}

// written is a disk that is served for writing.
type written struct {
	*disk.Live
	d    *vhdfile.Disk
	drop func() error
}

// Close makes everything durable.
func (w *written) Close() error {
	if err := w.d.Close(); err != nil {
		return err
	}
	return w.drop()
}

type readOnly struct {
	nbd.Device
	io.Closer
}

func (s *serve) openRaw(name string) (served, error) {
	flag := os.O_RDWR
	if s.readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	size, err := vhdfile.Size(f)
	if err == nil && size%image.SectorSize != 0 {
		err = fmt.Errorf("%s: %w: %d bytes", name, vhd.BadSize, size)
	}
	if err == nil {
		err = vhdfile.Lock(f, !s.readOnly)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &rawDisk{disk.NewLive(vhd.OpenRawDisk(f, size)), f}, nil
}

type rawDisk struct {
	*disk.Live
	f *os.File
}

func (r *rawDisk) Close() error {
	err := r.Flush()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EBADF) {
		err = nil // what is open for reading need not be synced everywhere
	}
	return errors.Join(err, r.f.Close())
}

// listen makes the socket, which nobody else may connect to. One that a killed process left is replaced.
func listen(name string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := net.Listen("unix", name)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	st, statErr := os.Lstat(name)
	if statErr != nil || st.Mode()&os.ModeSocket == 0 {
		return nil, exists(name, "no socket")
	}
	var d net.Dialer
	if c, err := d.DialContext(context.Background(), "unix", name); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			c.Close()
		}
		return nil, refuse(syscall.EBUSY, nil, "another process listens on "+name, unchanged, "end it, or choose another socket")
	}
	if err := os.Remove(name); err != nil { //nolint:forbidigo // a socket is no persistent file
		return nil, err
	}
	return net.Listen("unix", name)
}
