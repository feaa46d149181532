package durable_test

import (
	"syscall"
	"testing"

	"disksync/internal/durable"
	"disksync/vhd"
)

// TestReserve: room is taken, and neither the length nor what the file holds changes.
func TestReserve(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS) {
		f, err := fsys.Create("f", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("content"), 0); err != nil {
			t.Fatal(err)
		}
		if !f.(vhd.Reserver).Reserve(0, 1<<20) {
			t.Skip("this file system takes no room ahead")
		}
		b := make([]byte, 8)
		if n, _ := f.ReadAt(b, 0); string(b[:n]) != "content" {
			t.Errorf("%q", b[:n])
		}
		info, err := fsys.Stat("f")
		if err != nil || info.Size() != 7 {
			t.Errorf("%v, %v", info, err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Blocks*512 < 1<<20 {
			t.Errorf("the file has room for %d bytes", st.Blocks*512)
		}
	})
}
