package diskmap_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"disksync/diskmap"
	"disksync/layer"
	"disksync/volume/volumetest"
)

// The view is what the layer encoder reads.
var (
	_ layer.Disk       = (*diskmap.View)(nil)
	_ layer.DataSeeker = (*diskmap.View)(nil)
)

// counting is a disk that counts what is read, and fails in places.
type counting struct {
	memory
	mu   sync.Mutex
	read int64
	bad  int64 // reading this byte fails; 0: nothing does
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	c.read += int64(len(b))
	c.mu.Unlock()
	if c.bad >= off && c.bad < off+int64(len(b)) && c.bad > 0 {
		n, _ := c.memory.ReadAt(b[:c.bad-off], off)
		return n, errors.New("bad sector")
	}
	return c.memory.ReadAt(b, off)
}

// TestView: reading piece by piece, at any place, by many at once, is reading the whole; and what is free is not read.
func TestView(t *testing.T) {
	names, disks := seeds(t)
	for i, b := range disks {
		t.Run(names[i], func(t *testing.T) {
			b = bytes.Clone(b)
			for at := 0; at+600 < len(b); at += 512 { // something everywhere that a file system does not look at
				if bytes.Count(b[at:at+512], []byte{0}) == 512 && at > 200<<10 {
					copy(b[at:], garbage)
				}
			}
			d := &counting{memory: inMemory(b)}
			m := scan(t, d)
			v := m.Disk(d)
			want := make([]byte, len(b))
			d.read = 0
			if n, err := v.ReadAt(want, 0); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			if v.Size() != int64(len(b)) || d.read > int64(len(b))-m.Free()*9/10+256<<10 {
				t.Errorf("%d of %d bytes were read, %d are free", d.read, len(b), m.Free())
			}
			var wg sync.WaitGroup
			for seed := range uint64(4) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, 0))
					for range 100 {
						off := r.IntN(len(b))
						piece := make([]byte, 1+r.IntN(300_000)>>r.IntN(18))
						n, err := v.ReadAt(piece, int64(off))
						left := len(b) - off
						if n != min(len(piece), left) || !bytes.Equal(piece[:n], want[off:off+n]) || (err == nil) != (len(piece) <= left) || err != nil && err != io.EOF {
							t.Errorf("%d bytes at %d: %d, %v", len(piece), off, n, err)
						}
						next, err := v.NextData(int64(off))
						if err != nil || next < int64(off) || len(bytes.Trim(want[off:next], "\x00")) != 0 {
							t.Errorf("data behind %d at %d, %v", off, next, err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestBadSectors: an error of the disk is an error, not a reason; behind what is free nobody notices it.
func TestBadSectors(t *testing.T) {
	_, disks := seeds(t)
	b := disks[2] // ext2
	d := &counting{memory: inMemory(b)}
	m := scan(t, d)
	d.bad = 1030
	if _, err := diskmap.Scan(d); err == nil || !strings.Contains(err.Error(), "bad sector") {
		t.Errorf("scanned with %v", err)
	}
	if n, err := m.Disk(d).ReadAt(make([]byte, 5000), 500); n != 530 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	d.bad = int64(len(b)) - 100_000
	if n, err := m.Disk(d).ReadAt(make([]byte, len(b)), 0); n != len(b) || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// TestSwap: all pages but the first become zeros, whatever the size of a page.
func TestSwap(t *testing.T) {
	for _, page := range []string{"4096", "65536"} {
		img := filled(t, 4)
		volumetest.Run(t, "mkswap", "-p", page, img)
		trimmed, m := trim(t, img)
		v := one(t, m)
		if v.Kind != diskmap.Swap || v.Free != 4<<20-number(page) {
			t.Errorf("%+v", v)
		}
		was, is := bytesOf(t, img), bytesOf(t, trimmed)
		if n := number(page); !bytes.Equal(was[:n], is[:n]) || len(bytes.Trim(is[n:], "\x00")) != 0 {
			t.Errorf("pages of %s bytes are not what they should be", page)
		}
		b := bytes.Clone(was)
		copy(b[number(page)-10:], "SWAP-SPACE")
		checkKept(t, b, "old kind")
	}
}
