package ntfs_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"disksync/volume/ntfs/format"
	"disksync/volume/volumetest"
)

// TestThousandsOfRecords: a file each cluster of which is in another place and has a record of its own. No tool makes such a file soon
// enough, so it is made by hand, and read by ntfs-3g as well.
func TestThousandsOfRecords(t *testing.T) {
	t.Parallel()
	const pieces, cluster = 5000, 4096
	img := makeImage(t, 100, "-c 4096")
	var file, list int64
	var spare []int64 // records that are free
	mounted(t, img, "rw", func(dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		put(t, at("file"), random(pieces*cluster))
		put(t, at("list"), make([]byte, 32*(pieces+2)))
		file, list = inode(t, at("file")), inode(t, at("list"))
		for i := range pieces {
			put(t, at(fmt.Sprint(i)), nil)
			spare = append(spare, inode(t, at(fmt.Sprint(i))))
		}
		for i := range pieces {
			if err := os.Remove(at(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	})
	m := edit(t, img)
	order := rand.New(rand.NewPCG(1, 1)).Perm(pieces)
	scattered(t, m, file, list, spare, order)

	content, want := random(pieces*cluster), make([]byte, 0, pieces*cluster)
	for _, at := range order {
		want = append(want, content[at*cluster:][:cluster]...)
	}
	v := open(t, img)
	f, err := v.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := f.ReadAt(got, 0); n != len(want) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", n, err)
	}
	mounted(t, img, "ro", func(dir string) { volumetest.Compare(t, v, dir) })
}

// runs writes one run, with numbers as long as can be.
func runs(n, at int64) []byte {
	b := []byte{0x44}
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = binary.LittleEndian.AppendUint32(b, uint32(at))
	return append(b, 0, 0, 0, 0, 0, 0, 0)
}

// inClusters makes an attribute in one run.
func (m *image) inClusters(kind uint32, first, n, at, size int64) []byte {
	le := binary.LittleEndian
	a := make([]byte, 80)
	le.PutUint32(a, kind)
	le.PutUint32(a[4:], 80)
	a[8] = 1
	le.PutUint16(a[10:], 64)
	le.PutUint64(a[16:], uint64(first))
	le.PutUint64(a[24:], uint64(first+n-1))
	le.PutUint16(a[32:], 64)
	if first == 0 {
		le.PutUint64(a[40:], uint64((size+m.cluster-1)/m.cluster*m.cluster))
		le.PutUint64(a[48:], uint64(size))
		le.PutUint64(a[56:], uint64(size))
	}
	copy(a[64:], runs(n, at))
	return a
}

// place returns the first cluster of a file in one piece.
func (m *image) place(n int64) (at int64) {
	m.Helper()
	m.record(n, format.AttrData, func(a []byte) {
		r := a[binary.LittleEndian.Uint16(a[32:]):]
		lengths, places := int(r[0]&15), int(r[0]>>4)
		for i := range places {
			at |= int64(r[1+lengths+i]) << (8 * i)
		}
		if r[1+lengths+places] != 0 {
			m.Fatalf("file %d is in several pieces", n)
		}
	})
	return at
}

// reference returns what refers to a file.
func (m *image) reference(n int64) (ref uint64) {
	m.Helper()
	m.change(m.mft+n*m.size, m.size, func(b []byte) {
		if string(b[:4]) != "FILE" || int64(binary.LittleEndian.Uint32(b[44:])) != n {
			m.Fatalf("record %d is elsewhere", n)
		}
		ref = uint64(n) | uint64(binary.LittleEndian.Uint16(b[16:]))<<48
	})
	return ref
}

// scattered gives each cluster of a file a record, in another order.
func scattered(t *testing.T, m *image, file, list int64, spare []int64, order []int) {
	t.Helper()
	le := binary.LittleEndian
	from, listAt, own := m.place(file), m.place(list), m.reference(file)
	var entries []byte
	listed := func(kind uint32, first int64, ref uint64) {
		e := make([]byte, 32)
		le.PutUint32(e, kind)
		le.PutUint16(e[4:], 32)
		e[7] = 26
		le.PutUint64(e[8:], uint64(first))
		le.PutUint64(e[16:], ref)
		entries = append(entries, e...)
	}
	listed(format.AttrStandard, 0, own)
	listed(format.AttrFileName, 0, own)
	for i, at := range order {
		listed(format.AttrData, int64(i), m.reference(spare[i]))
		a := m.inClusters(format.AttrData, int64(i), 1, from+int64(at), int64(len(order))*m.cluster)
		m.change(m.mft+spare[i]*m.size, m.size, func(b []byte) {
			copy(b[56:], append(a, 0xff, 0xff, 0xff, 0xff))
			le.PutUint16(b[18:], 0)
			le.PutUint16(b[20:], 56)
			le.PutUint16(b[22:], 1)
			le.PutUint32(b[24:], uint32(56+len(a)+8))
			le.PutUint64(b[32:], own)
		})
	}
	m.change(listAt*m.cluster, int64(len(entries)), func(b []byte) { copy(b, entries) })
	n := int64(len(entries))
	m.change(m.mft+file*m.size, m.size, func(b []byte) {
		first := le.Uint16(b[20:])
		var out []byte
		for a := b[first:]; le.Uint32(a) != 0xffffffff; a = a[le.Uint32(a[4:]):] {
			kind := le.Uint32(a)
			if kind == format.AttrFileName {
				out = append(out, m.inClusters(format.AttrList, 0, (n+m.cluster-1)/m.cluster, listAt, n)...)
			}
			if kind == format.AttrFileName || kind == format.AttrStandard {
				out = append(out, a[:le.Uint32(a[4:])]...)
			}
		}
		out = append(out, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
		if copy(b[first:510], out) != len(out) {
			t.Fatal("the record is too long")
		}
		le.PutUint32(b[24:], uint32(int(first)+len(out)))
	})
}
