package slowdisk_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"disksync/internal/testkit/slowdisk"
)

func TestDisk(t *testing.T) {
	want := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(want)
	d := slowdisk.New(t, slowdisk.Model{Rate: 1e6, Seek: time.Second}, bytes.NewReader(want), int64(len(want)))
	f, err := os.Open(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, len(want))
	if n, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, want) {
		t.Fatalf("%d bytes: %v", n, err)
	}
	if c := d.Counted(); c.Bytes != int64(len(want)) || c.Seeks != 0 || c.Time != d.Sequential(c.Bytes) {
		t.Errorf("one read: %+v", c)
	}
	d.Reset()
	for _, off := range []int64{1 << 20, 3 << 20} {
		if _, err := f.ReadAt(b[:1000], off); err != nil {
			t.Error(err)
		}
	}
	if c := d.Counted(); c.Seeks != 2 || c.Time != 2*time.Second+2*time.Millisecond {
		t.Errorf("two reads: %+v", c)
	}
	d.Bad(2<<20, 2<<20+1)
	if n, err := f.ReadAt(b[:1<<20], 2<<20-4096); !errors.Is(err, syscall.EIO) || n != 4096 {
		t.Errorf("before a bad place: %d bytes, %v", n, err)
	}
	if n, err := f.ReadAt(b[:10], 3<<20); err != nil || n != 10 {
		t.Errorf("behind a bad place: %d bytes, %v", n, err)
	}
	d.PullOut(100)
	if n, err := f.ReadAt(b[:1000], 0); n != 100 || !errors.Is(err, syscall.ENODEV) && err != io.EOF {
		t.Errorf("pulled out: %d bytes, %v", n, err)
	}
	if _, err := f.ReadAt(b[:1], 0); !errors.Is(err, syscall.ENODEV) {
		t.Error(err)
	}
}
