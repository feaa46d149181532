package main

import (
	"encoding/binary"
	"os"

	"github.com/rogpeppe/go-internal/testscript"
)

// journal FILE JOURNAL: write the journal that XenServer's vhd-util would have made of the file before a resize, with its first
// 64 KiB behind the metadata as data.
func makeJournal(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	be := binary.BigEndian
	size := int64(len(b))
	tableAt := int64(be.Uint64(b[512+16:]))
	tableSize := (int64(be.Uint32(b[512+28:]))*4 + 511) / 512 * 512
	j := make([]byte, 512)
	entry := func(kind uint32, off, n int64) {
		h := make([]byte, 32)
		be.PutUint64(h, 0xaaaa12344321aaaa)
		be.PutUint32(h[8:], kind)
		be.PutUint32(h[12:], uint32(n))
		be.PutUint64(h[16:], uint64(off))
		h[28] = 0x5a // whatever was in memory there
		sum := uint32(0)
		for _, c := range append(append([]byte{}, h...), b[off:off+n]...) {
			sum += uint32(c)
		}
		be.PutUint32(h[24:], ^sum)
		j = append(append(j, h...), b[off:off+n]...)
	}
	entry(1, size-512, 512)
	entry(2, 0, 512)
	entry(3, 512, 1024)
	entry(5, tableAt, tableSize)
	dataAt := len(j)
	entry(8, tableAt+tableSize, 64<<10)
	copy(j, "vjournal")
	copy(j[8:], b[68:84])
	be.PutUint64(j[24:], uint64(size-512))
	be.PutUint32(j[32:], 1)
	be.PutUint32(j[36:], 4)
	be.PutUint64(j[40:], uint64(dataAt))
	be.PutUint64(j[48:], 512)
	binary.LittleEndian.PutUint64(j[56:], uint64(len(j))) // the only field of that order
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), j, 0o644))
}

// switchoff FILE: switch a disk off as XenServer's vhd-util does while it resizes, with right checksums.
func switchOff(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	st, err := f.Stat()
	ts.Check(err)
	for _, at := range []int64{0, st.Size() - 512} {
		b := make([]byte, 512)
		_, err := f.ReadAt(b, at)
		ts.Check(err)
		copy(b, "v_poison")
		copy(b[64:68], make([]byte, 4))
		sum := uint32(0)
		for _, c := range b {
			sum += uint32(c)
		}
		binary.BigEndian.PutUint32(b[64:], ^sum)
		_, err = f.WriteAt(b, at)
		ts.Check(err)
	}
	ts.Check(f.Close())
}
