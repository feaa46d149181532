package vhd_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
)

// largest makes a disk of 2040 GiB whose blocks are all allocated, in a file that is a hole but for its metadata. Where the
// file system has no files of that length the test is skipped.
func largest(t testing.TB) (*os.File, int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "largest.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o := vhd.CreateOptions{Size: vhd.MaxDynamicSize, UUID: newUUID(1)}
	if err := vhd.Create(f, o); err != nil {
		t.Fatal(err)
	}
	const blocks = vhd.MaxDynamicSize / vhd.DefaultBlockSize
	const stride = vhd.DefaultBlockSize + 4096
	const first = 8 << 20
	table := make([]byte, 4*blocks)
	for i := range int64(blocks) {
		binary.BigEndian.PutUint32(table[4*i:], uint32((first+i*stride+3584)/512))
	}
	footer := make([]byte, vhd.FooterSize)
	if _, err := f.ReadAt(footer, 0); err != nil {
		t.Fatal(err)
	}
	end := int64(first + blocks*stride)
	if _, err := f.WriteAt(table, 1536); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(footer, end); err != nil {
		t.Skipf("no file of %d bytes here: %v", end, err)
	}
	return f, end + vhd.FooterSize
}
