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

// scattered gives each cluster of a file a record, in another order.
func scattered(t *testing.T, m *image, file, list int64, spare []int64, order []int) {
	t.Helper()
	le := binary.LittleEndian
	place := func(n int64) (at int64) { // of a file in one piece
		m.record(n, format.AttrData, func(a []byte) {
			r := a[le.Uint16(a[32:]):]
			lengths, places := int(r[0]&15), int(r[0]>>4)
			for i := range places {
				at |= int64(r[1+lengths+i]) << (8 * i)
			}
			if r[1+lengths+places] != 0 {
				t.Fatalf("file %d is in several pieces", n)
			}
		})
		return at
	}
	from, listAt := place(file), place(list)
	size := int64(len(order)) * m.cluster
	piece := func(first int64, n, at, size int64, kind uint32) []byte { // an attribute in clusters
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
	var entries []byte
	listed := func(kind uint32, first, number int64, sequence uint16) {
		e := make([]byte, 32)
		le.PutUint32(e, kind)
		le.PutUint16(e[4:], 32)
		e[7] = 26
		le.PutUint64(e[8:], uint64(first))
		le.PutUint64(e[16:], uint64(number)|uint64(sequence)<<48)
		entries = append(entries, e...)
	}
	sequence := func(n int64) (s uint16) {
		m.change(m.mft+n*m.size, m.size, func(b []byte) {
			if string(b[:4]) != "FILE" || int64(le.Uint32(b[44:])) != n {
				t.Fatalf("record %d is elsewhere", n)
			}
			s = le.Uint16(b[16:])
		})
		return s
	}
	own := sequence(file)
	listed(format.AttrStandard, 0, file, own)
	listed(format.AttrFileName, 0, file, own)
	for i, at := range order {
		n := spare[i]
		listed(format.AttrData, int64(i), n, sequence(n))
		m.change(m.mft+n*m.size, m.size, func(b []byte) {
			a := piece(int64(i), 1, from+int64(at), size, format.AttrData)
			copy(b[56:], a)
			le.PutUint32(b[56+len(a):], 0xffffffff)
			le.PutUint16(b[18:], 0)
			le.PutUint16(b[20:], 56)
			le.PutUint16(b[22:], 1)
			le.PutUint32(b[24:], uint32(56+len(a)+8))
			le.PutUint64(b[32:], uint64(file)|uint64(own)<<48)
		})
	}
	m.change(listAt*m.cluster, int64(len(entries)), func(b []byte) { copy(b, entries) })
	m.change(m.mft+file*m.size, m.size, func(b []byte) {
		first := le.Uint16(b[20:])
		var out []byte
		for a := b[first:]; ; a = a[le.Uint32(a[4:]):] {
			switch le.Uint32(a) {
			case format.AttrFileName:
				n := int64(len(entries))
				out = append(out, piece(0, (n+m.cluster-1)/m.cluster, listAt, n, format.AttrList)...)
				fallthrough
			case format.AttrStandard:
				out = append(out, a[:le.Uint32(a[4:])]...)
				continue
			case 0xffffffff:
			default:
				continue
			}
			break
		}
		out = append(out, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
		if copy(b[first:510], out) != len(out) {
			t.Fatal("the record is too long")
		}
		le.PutUint32(b[24:], uint32(int(first)+len(out)))
	})
}
