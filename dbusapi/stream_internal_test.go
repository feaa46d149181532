package dbusapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"disksync/image"
	"disksync/internal/problem"
)

// memory is an io.WriterAt.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

// receive receives what a peer sends that is not our service.
func receive(t *testing.T, ctx context.Context, out io.WriterAt, send func(c net.Conn)) (int64, error) { //nolint:revive // t comes first in helpers
	t.Helper()
	name := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		send(c)
	}()
	n, err := receiveStream(ctx, name, out, func(int64) {})
	<-done
	return n, err
}

func head(off uint64, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, off), n)
}

func TestStreamFormat(t *testing.T) {
	out := make(memory, 32)
	size, err := receive(t, t.Context(), out, func(c net.Conn) {
		w := &streamWriter{w: bufio.NewWriter(c)}
		for _, at := range []int64{16, 4} {
			if _, err := w.WriteAt([]byte("data"), at); err != nil {
				t.Error(err)
			}
		}
		// A write without bytes is none, and not the end.
		if n, err := w.WriteAt(nil, 8); n != 0 || err != nil {
			t.Error(n, err)
		}
		if err := errors.Join(w.write(32, 0, nil), w.w.Flush()); err != nil {
			t.Error(err)
		}
	})
	want := append(append(append(make([]byte, 4), "data"...), make([]byte, 8)...), "data"...)
	if err != nil || size != 32 || !bytes.Equal(out, append(want, make([]byte, 12)...)) {
		t.Errorf("%d %v %q", size, err, out)
	}
}

// TestStreamBroken: whatever a stream ends with but its end is an error, and takes no more memory than a piece may have.
func TestStreamBroken(t *testing.T) {
	text := `{"code":"DS-DISK-DAMAGED","exit":7,"what":"the disk is damaged","safe":"nothing was changed","next":"verify"}`
	for _, c := range []struct {
		name  string
		sent  []byte
		code  string // of the problem; empty: none
		words string
	}{
		{"nothing", nil, "DS-SERVICE-GONE", "stopped sending"},
		{"half a head", head(0, 4)[:7], "DS-SERVICE-GONE", "stopped sending"},
		{"head alone", head(0, 4), "DS-SERVICE-GONE", "stopped sending"},
		{"half a piece", append(head(0, 4), "da"...), "DS-SERVICE-GONE", "stopped sending"},
		{"no end", append(head(0, 4), "data"...), "DS-SERVICE-GONE", "stopped sending"},
		{"failure", append(head(uint64(len(text)), streamError), text...), "DS-DISK-DAMAGED", "the disk is damaged"},
		{"failure cut off", append(head(uint64(len(text)), streamError), text[:9]...), "DS-SERVICE-GONE", "stopped sending"},
		{"failure without sense", append(head(3, streamError), "xyz"...), "DS-FAILED", "could not export"},
		{"failure of no bytes", head(0, streamError), "DS-FAILED", "could not export"},
		{"huge failure", head(1<<62, streamError), "DS-SERVICE-GONE", "stopped sending"},
		{"negative failure", head(1<<63, streamError), "DS-FAILED", "could not export"},
		{"large piece", head(0, image.BlockSize+1), "", "a piece of"},
		{"negative offset", head(1<<63, 4), "", "a piece of"},
		{"offset beyond every disk", head(image.MaxDiskSize+1, 4), "", "a piece of"},
		{"outside of the disk", append(head(30, 4), "data"...), "", "write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := receive(t, t.Context(), make(memory, 32), func(conn net.Conn) { _, _ = conn.Write(c.sent) })
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("error %v, want %q", err, c.words)
			}
			p, ok := errors.AsType[*problem.Problem](err)
			if ok != (c.code != "") || ok && p.Code != c.code {
				t.Errorf("error %+v, want code %q", err, c.code)
			}
			if c.name == "failure" && (p.Exit != problem.Damaged || p.Safe != "nothing was changed" || p.Next != "verify") {
				t.Errorf("problem %+v", p)
			}
		})
	}
}

func TestStreamInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := receive(t, ctx, make(memory, 32), func(c net.Conn) {
		cancel()
		_, _ = io.Copy(io.Discard, c) // until the receiver goes
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestSendable(t *testing.T) {
	for in, want := range map[string]string{"": "", "naïve\n": "naïve\n", "a\x00b": "a?b", "a\xffb": "a?b", "\xed\xa0\x80": "?"} {
		if got := sendable(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
