package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/testkit"
)

// large returns a line with a disk that is synced in between, and an update of it that is, too.
func large(t *testing.T) *line {
	seeds := make([]uint64, 80)
	for i := range seeds {
		seeds[i] = uint64(i + 1)
	}
	l := newLine("large").add(t, true, disk(1, seeds...))
	for i := range seeds {
		seeds[i] += 1000
	}
	return l.add(t, false, disk(1, seeds...))
}

// TestReadBackWhileTransferring: what is synced is read back while the rest is still coming, and each block once.
func TestReadBackWhileTransferring(t *testing.T) {
	l := large(t)
	fsys, err := durable.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, fsys)
	for n := 1; n <= 2; n++ {
		v, tally := l.version(n), deploy.NewTally()
		src := newSource(deploy.USB, v.layers...)
		src.after = func(given int) error {
			if given == 75 {
				testkit.Until(t, "something was read back", func() bool { n, _, _ := tally.Counts(); return n > 20 })
			}
			return nil
		}
		if err := installAll(t.Context(), s, v, tally, src); err != nil {
			t.Fatal(err)
		}
		if verified, _, _ := tally.Counts(); verified != 80 {
			t.Errorf("version %d: %d of 80 blocks were read back", n, verified)
		}
		got, err := readVHD(fsys, image.VHDUUID(v.state.ID()))
		if err != nil || !bytes.Equal(got, v.disk) {
			t.Errorf("version %d: the content differs, %v", n, err)
		}
	}
}

// TestReadBackFindsLies: a disk that loses a byte when it syncs, early or at the end, does not get the version installed.
func TestReadBackFindsLies(t *testing.T) {
	l := large(t)
	v := l.version(1)
	for _, seed := range []uint64{1, 40, 80} {
		dir, err := durable.Dir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		lost := make([]byte, 100)
		noise(lost, seed)
		s := openStore(t, &liar{FS: dir, lost: lost})
		if err := installAll(t.Context(), s, v, deploy.NewTally(), newSource(deploy.USB, v.layers...)); !errors.Is(err, deploy.ErrDiskLies) {
			t.Errorf("block %d: %v", seed-1, err)
		}
		if ok, err := s.Installed(v.state.ID()); ok || err != nil {
			t.Errorf("block %d: installed: %v, %v", seed-1, ok, err)
		}
	}
}

// liar is a file system that changes a byte of some content when the file is synced for the first time with it.
type liar struct {
	durable.FS
	lost []byte
}

func (l *liar) Create(name string, perm fs.FileMode) (durable.File, error) {
	f, err := l.FS.Create(name, perm)
	return &lyingFile{File: f, lost: l.lost}, err
}

type lyingFile struct {
	durable.File
	lost []byte
	once sync.Once
}

func (f *lyingFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if at := bytes.Index(b, f.lost); at >= 0 {
		f.once.Do(func() { _, err = f.WriteAt([]byte{^b[at]}, int64(at)) })
	}
	return err
}
