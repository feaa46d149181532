package exfat_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"disksync/volume/exfat"
	"disksync/volume/volumetest"
)

// small returns a small volume with files in pieces and folders.
func small(t testing.TB) []byte {
	t.Helper()
	img := volumetest.Image(t, 1<<20)
	volumetest.Run(t, "mkfs.exfat", "-c", "512", "-b", "4096", "-L", "LABEL", img)
	volumetest.Mounted(t, func(dir string) {
		for i := range 12 {
			volumetest.Put(t, dir, fmt.Sprintf("folder %d/a long name with number %d", i%3, i), int64(i)*3000)
		}
		pieces(t, dir, 100_000)
	}, "mount.exfat-fuse", volumetest.Loop(t, img))
	return volumetest.Blank(volumetest.Read(t, img))
}

// pieces writes a file that is all over the volume.
func pieces(t testing.TB, dir string, n int64) {
	t.Helper()
	for i := range 40 {
		volumetest.Put(t, dir, fmt.Sprintf("p%d", i), n/40)
	}
	for i := 0; i < 40; i += 2 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("p%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	volumetest.Put(t, dir, "pieces", n)
}

// mend makes the checksums right.
func mend(b []byte) {
	if !exfat.IsBoot(b) {
		return
	}
	le := binary.LittleEndian
	for at := 0; at+96 <= len(b); at += 32 {
		if n := (int(b[at+1]) + 1) * 32; b[at] == exfat.TypeFile && at+n <= len(b) && b[at+32] == exfat.TypeStream {
			le.PutUint16(b[at+2:], exfat.SetSum(b[at:at+n]))
		}
	}
	const sums = 11 * 512
	var sum uint32
	for i, c := range b[:sums] {
		if i != 106 && i != 107 && i != 112 {
			sum = sum<<31 | sum>>1 + uint32(c)
		}
	}
	for at := sums; at < sums+512; at += 4 {
		le.PutUint32(b[at:], sum)
	}
}

// TestMutate: damage costs no more than an error, where checksums find it and where they do not.
func TestMutate(t *testing.T) {
	b := small(t)
	volumetest.Mutate(t, b, 0, volumetest.Rounds(200), exfat.Open)
	volumetest.Mutate(t, b, 0, volumetest.Rounds(600), volumetest.Mending(mend, exfat.Open))
}

// FuzzOpen: no volume makes the reader panic or loop.
func FuzzOpen(f *testing.F) {
	volumetest.Fuzz(f, [][]byte{small(f)}, volumetest.Mending(mend, exfat.Open))
}
