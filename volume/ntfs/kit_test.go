package ntfs_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/volume"
	"disksync/volume/ntfs"
	"disksync/volume/ntfs/format"
	"disksync/volume/volumetest"
)

// makeImage makes an image of so many MiB, sparse, with an NTFS volume.
func makeImage(t testing.TB, mib int64, args string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "ntfs.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, mib<<20); err != nil {
		t.Fatal(err)
	}
	volumetest.Run(t, "mkntfs", append(strings.Fields("-q -F -Q -p 0 -H 0 -S 0 "+args), img)...)
	return img
}

// mounted mounts an image with ntfs-3g and runs do on it. Where that cannot be done the test is skipped: a container may not let it.
func mounted(t testing.TB, img, options string, do func(dir string)) {
	t.Helper()
	volumetest.Mounted(t, do, "ntfs-3g", "-o", options, img)
}

// open opens the volume in an image.
func open(t testing.TB, img string) volume.Volume {
	t.Helper()
	return volumetest.Open(t, img, ntfs.Open)
}

// image is an image that is changed by hand.
type image struct {
	testing.TB
	f       *os.File
	cluster int64
	mft     int64 // bytes; the first records are there in one piece
	mirror  int64 // bytes
	size    int64 // of a record
}

func edit(t testing.TB, img string) *image {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	boot, ok := format.ParseBoot(b)
	if !ok {
		t.Fatal("the boot sector makes no sense")
	}
	return &image{t, f, boot.Cluster, boot.MFT * boot.Cluster, boot.Mirror * boot.Cluster, boot.RecordSize}
}

// change lets do change n bytes at a place.
func (m *image) change(at, n int64, do func(b []byte)) {
	m.Helper()
	b := make([]byte, n)
	if _, err := m.f.ReadAt(b, at); err != nil {
		m.Fatal(err)
	}
	do(b)
	if _, err := m.f.WriteAt(b, at); err != nil {
		m.Fatal(err)
	}
}

// record lets do change an attribute of a record; ends of sectors are not to be changed.
func (m *image) record(n int64, kind uint32, do func(a []byte)) {
	m.Helper()
	m.change(m.mft+n*m.size, m.size, func(b []byte) {
		le := binary.LittleEndian
		for a := b[le.Uint16(b[20:]):]; le.Uint32(a) != 0xffffffff; a = a[le.Uint32(a[4:]):] {
			if le.Uint32(a) == kind {
				do(a)
				return
			}
		}
		m.Fatalf("file %d has no attribute %#x", n, kind)
	})
}

// scatter marks clusters as used so that runs of the free ones have only so many.
func (m *image) scatter(length func() int) {
	m.Helper()
	var at, n int64
	m.record(format.Bitmap, format.AttrData, func(a []byte) {
		runs := a[binary.LittleEndian.Uint16(a[32:]):]
		for i := range int64(runs[0] & 15) {
			n |= int64(runs[1+i]) << (8 * i)
		}
		for i := range int64(runs[0] >> 4) {
			at |= int64(runs[1+int64(runs[0]&15)+i]) << (8 * i)
		}
	})
	m.change(at*m.cluster, n*m.cluster, func(b []byte) {
		left := length()
		for i := range 8 * len(b) {
			if b[i/8]>>(i%8)&1 != 0 {
				continue
			}
			if left--; left < 0 {
				b[i/8] |= 1 << (i % 8)
				left = length()
			}
		}
	})
}

// inode returns the number of a file on a mounted volume.
func inode(t testing.TB, name string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Ino)
}

// setAttributes sets the attributes of a file or folder on a mounted volume, those of [MS-FSCC] 2.6.
func setAttributes(t testing.TB, name string, attributes uint32) {
	t.Helper()
	if err := unix.Setxattr(name, "system.ntfs_attrib_be", binary.BigEndian.AppendUint32(nil, attributes), 0); err != nil {
		t.Fatal(err)
	}
}
