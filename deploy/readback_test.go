package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"disksync/cache"
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

// TestReadBackOfEarlierRuns: blocks that an interrupted run has left are read back as well, in the run that goes on with them.
func TestReadBackOfEarlierRuns(t *testing.T) {
	l := large(t)
	v := l.version(1)
	errStop := errors.New("stop")
	for _, lost := range []uint64{0, 5, 75} { // 0: the disk loses nothing
		fsys, err := durable.Dir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		s := openStore(t, fsys)
		src := newSource(deploy.USB, v.layers...)
		src.after = func(given int) error {
			if given == 70 {
				return errStop
			}
			return nil
		}
		if err := installAll(t.Context(), s, v, deploy.NewTally(), src); !errors.Is(err, errStop) {
			t.Fatalf("interrupted: %v", err)
		}
		gone := make([]byte, 100)
		noise(gone, 1<<14) // which no block has
		if lost > 0 {
			noise(gone, lost)
		}
		s, tally := openStore(t, &liar{FS: fsys, lost: gone}), deploy.NewTally()
		err = installAll(t.Context(), s, v, tally, newSource(deploy.USB, v.layers...))
		verified, resumed, _ := tally.Counts()
		if resumed < 60 {
			t.Errorf("%d blocks were there", resumed)
		}
		if lost == 0 && (err != nil || verified != 80) {
			t.Errorf("%d of 80 blocks were read back, %v", verified, err)
		}
		if lost > 0 && !errors.Is(err, deploy.ErrDiskLies) {
			t.Errorf("block %d: %v", lost-1, err)
		}
	}
}

func (l *liar) OpenWrite(name string) (durable.File, error) {
	f, err := l.FS.OpenWrite(name)
	return &lyingFile{File: f, lost: l.lost}, err
}

// TestChecksum: a checksum tells what disks do to blocks.
func TestChecksum(t *testing.T) {
	b := make([]byte, block)
	noise(b, 7)
	copy(b[block/2:], b[:4096]) // two sectors that are the same
	sums := map[deploy.Checksum]string{deploy.ChecksumOf(b): "nothing"}
	for name, damage := range map[string]func(b []byte){
		"zeros":             func(b []byte) { clear(b) },
		"a sector of zeros": func(b []byte) { clear(b[4096:][:512]) },
		"two of zeros":      func(b []byte) { clear(b[:512]); clear(b[block/2:][:512]) },
		"sectors swapped":   func(b []byte) { swap(b[512:1024], b[8192:8704]) },
		"a bit":             func(b []byte) { b[12345] ^= 4 },
		"the last bit":      func(b []byte) { b[block-1] ^= 1 },
		"the same bits":     func(b []byte) { b[0] ^= 255; b[block-1] ^= 255 },
		"shifted":           func(b []byte) { copy(b[512:], b[:block-512]) },
	} {
		d := bytes.Clone(b)
		damage(d)
		sum := deploy.ChecksumOf(d)
		if other, there := sums[sum]; there {
			t.Errorf("%s has the checksum of %s", name, other)
		}
		sums[sum] = name
	}
	if len(sums) != 9 {
		t.Errorf("%d checksums", len(sums))
	}
}

func swap(a, b []byte) {
	c := bytes.Clone(a)
	copy(a, b)
	copy(b, c)
}

// TestHoles: a new block is written without its long runs of zeros, and with all the rest.
func TestHoles(t *testing.T) {
	const k = 1 << 10
	type run struct{ from, to int }
	for name, c := range map[string]struct{ content, want []run }{
		"all":                 {[]run{{0, block}}, []run{{0, block}}},
		"nothing":             {nil, nil},
		"one byte":            {[]run{{5000, 5001}}, []run{{4 * k, 8 * k}}},
		"the last byte":       {[]run{{block - 1, block}}, []run{{block - 4*k, block}}},
		"a short hole":        {[]run{{0, 4 * k}, {67 * k, 68 * k}}, []run{{0, 68 * k}}},
		"a long hole":         {[]run{{0, 4 * k}, {68 * k, 69 * k}}, []run{{0, 4 * k}, {68 * k, 72 * k}}},
		"holes at both ends":  {[]run{{100 * k, 300 * k}}, []run{{100 * k, 300 * k}}},
		"many runs and holes": {[]run{{0, 1}, {200 * k, 201 * k}, {500 * k, 520 * k}}, []run{{0, 4 * k}, {200 * k, 204 * k}, {500 * k, 520 * k}}},
	} {
		b := make([]byte, block)
		for _, r := range c.content {
			for i := r.from; i < r.to; i++ {
				b[i] = 1
			}
		}
		var got []run
		for from, to := deploy.NextContent(b, 0); from < len(b); from, to = deploy.NextContent(b, to) {
			got = append(got, run{from, to})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if from, to := deploy.NextContent([]byte{511: 1}, 0); from != 0 || to != 512 {
		t.Errorf("a block of one sector: %d to %d", from, to)
	}
}

// TestDiskThatLiesIsTold: whoever deploys onto such a disk is told what fails, and nothing is installed.
func TestDiskThatLiesIsTold(t *testing.T) {
	l := large(t)
	v := l.version(1)
	dir, err := durable.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lost := make([]byte, 100)
	noise(lost, 40)
	s := openStore(t, &liar{FS: dir, lost: lost})
	j := &deploy.Job{Store: s, Manifest: v.signed, Media: []*cache.Inventory{medium(t, cache.USB, v.layers[0].file)}, Tally: deploy.NewTally()}
	p, err := j.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Run(t.Context(), p); code(t, err) != "DS-DISK" {
		t.Errorf("got %v", err)
	}
	if ok, err := s.Installed(v.state.ID()); ok || err != nil {
		t.Errorf("installed: %v, %v", ok, err)
	}
}
