package remotedisk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"disksync/internal/problem"
	"disksync/internal/remotedisk"
)

// disk is one in memory, of which the last byte cannot be read when bad is set.
type disk struct {
	*bytes.Reader
	bad error
}

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	if d.bad != nil && off+int64(len(p)) == d.Size() {
		return 0, d.bad
	}
	return d.Reader.ReadAt(p, off)
}

func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// served serves a disk and opens it; what Serve returns comes when the connection is closed.
func served(t *testing.T, d remotedisk.Source) (*remotedisk.Disk, net.Conn, <-chan error) {
	t.Helper()
	here, there := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- remotedisk.Serve(there, d)
		there.Close()
	}()
	r, err := remotedisk.Open(here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	return r, here, ended
}

// TestRead: a disk is the same at the other end, at all places and lengths, also for several readers.
func TestRead(t *testing.T) {
	t.Parallel()
	want := content(5<<20 + 77)
	d, conn, ended := served(t, disk{Reader: bytes.NewReader(want)})
	if d.Size() != int64(len(want)) {
		t.Errorf("%d bytes", d.Size())
	}
	if err := iotest.TestReader(io.NewSectionReader(d, 1<<20, 700), want[1<<20:][:700]); err != nil {
		t.Error(err)
	}
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			b := make([]byte, len(want)+1)
			if n, err := d.ReadAt(b, 0); n != len(want) || err != io.EOF || !bytes.Equal(b[:n], want) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	readers.Wait()
	if n, err := d.ReadAt(make([]byte, 1), d.Size()); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, err := d.ReadAt(make([]byte, 1), -1); problem.Of(err).Code != "DS-USAGE" {
		t.Errorf("before the start: %v", err)
	}
	conn.Close()
	if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) { // which is no end of file for deadlines
		t.Error(err)
	}
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, remotedisk.ErrBroken) {
		t.Errorf("a closed connection: %v", err)
	}
}

// TestFailures: what cannot be read is told with its problem, and the rest can be read still.
func TestFailures(t *testing.T) {
	t.Parallel()
	want := content(1000)
	for _, c := range []struct {
		err        error
		code, says string
	}{
		{problem.New("DS-DISK-DAMAGED", problem.Damaged, errors.New("odd"), "the disk is damaged", "", ""), "DS-DISK-DAMAGED", "odd"},
		{errors.New("a bad sector"), "DS-FAILED", "a bad sector"},
		{errors.New(strings.Repeat("x", 1<<20)), "DS-FAILED", "could not read the disk"},
	} {
		d, _, _ := served(t, disk{bytes.NewReader(want), c.err})
		b := make([]byte, 1000)
		if _, err := d.ReadAt(b, 0); problem.Of(err).Code != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %.100v", c.code, err)
		}
		if n, err := d.ReadAt(b[:999], 0); n != 999 || err != nil || !bytes.Equal(b[:n], want[:n]) {
			t.Errorf("after %s: %d, %v", c.code, n, err)
		}
	}
}

// TestLongRequests: nobody makes a server read more than it has room for, or look outside of the disk.
func TestLongRequests(t *testing.T) {
	t.Parallel()
	_, conn, _ := served(t, disk{Reader: bytes.NewReader(content(4 << 20))})
	for _, c := range []struct {
		off uint64
		n   uint32
	}{{0, 2<<20 + 1}, {0, 1<<32 - 1}, {4 << 20, 1}, {3<<20 + 1, 1 << 20}, {1 << 63, 1}, {1<<64 - 1, 2}, {1<<63 - 1, 2 << 20}} {
		if _, err := conn.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, c.off), c.n)); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 8)
		if _, err := io.ReadFull(conn, head); err != nil || binary.BigEndian.Uint32(head) != 1<<32-1 {
			t.Fatalf("%d bytes at %d: %x, %v", c.n, c.off, head, err)
		}
		text := make([]byte, binary.BigEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(conn, text); err != nil || !bytes.Contains(text, []byte("are wanted")) {
			t.Errorf("%d bytes at %d: %s, %v", c.n, c.off, text, err)
		}
	}
}

// TestOddServers: what makes no sense is an error.
func TestOddServers(t *testing.T) {
	t.Parallel()
	size := "\x00\x00\x00\x00\x00\x00\x10\x00"
	for name, says := range map[string]string{
		"no size": "\x00\x00", "nothing": size, "another length": size + "\x00\x00\x00\x05abcde", "half": size + "\x00\x00\x00\x04ab",
		"half an error": size + "\xff\xff\xff\xff\x00\x00\x00\x09{", "an endless error": size + "\xff\xff\xff\xff\xff\xff\xff\xff{}",
	} {
		here, there := net.Pipe()
		go func() {
			_, _ = io.WriteString(there, says[:min(8, len(says))]) // who reads is tested
			if len(says) > 8 {
				_, _ = io.ReadFull(there, make([]byte, 12))
				_, _ = io.WriteString(there, says[8:])
			}
			there.Close()
		}()
		d, err := remotedisk.Open(here)
		if err == nil {
			_, err = d.ReadAt(make([]byte, 4), 0)
		}
		if !errors.Is(err, remotedisk.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		here.Close()
	}
}

// TestIdle: who asks nothing for ten minutes is left alone.
func TestIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, _, ended := served(t, disk{Reader: bytes.NewReader(content(10))})
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}
