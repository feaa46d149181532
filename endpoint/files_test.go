package endpoint_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
)

// lookedInto is a VM's backup at a Synchronizer, and another endpoint that looks into it.
func lookedInto(t *testing.T, now []byte) *world {
	t.Helper()
	w := ready(t, now)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.backUp("win7")
	return w.elsewhere()
}

// layers has do answer requests for parts of layers: of their frames, when the disk is open.
func (w *world) layers(do hook) {
	w.front.answer(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.URL.Path, "/v1/layers/") {
			do(rw, r, next)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// damagedFrames has the Synchronizer answer with damaged frames.
func (w *world) damagedFrames() {
	zeros := changeFrames(func(b []byte) { clear(b) })
	w.layers(func(rw http.ResponseWriter, r *http.Request, next http.Handler) { zeros(rw, record(r, next), r) })
}

// TestCloseWhileRead: a disk that is closed while others read in it is there until they have what they asked for.
func TestCloseWhileRead(t *testing.T) {
	now := disk(1, 2, 3)
	other := lookedInto(t, now)
	v, err := other.e.OpenDisk(t.Context(), "win7", 1, image.System)
	if err != nil {
		t.Fatal(err)
	}
	if v.Size() != int64(len(now)) {
		t.Errorf("%d bytes", v.Size())
	}
	came, answer := make(chan struct{}, 2), make(chan struct{})
	other.layers(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		came <- struct{}{}
		<-answer
		next.ServeHTTP(rw, r)
	})
	var readers sync.WaitGroup
	for i := range 2 {
		readers.Go(func() {
			p := make([]byte, block)
			if n, err := v.ReadAt(p, int64(i)*block); n != len(p) || err != nil || !bytes.Equal(p, now[i*block:][:block]) {
				t.Errorf("block %d: %d bytes, %v", i, n, err)
			}
		})
		<-came
	}
	closed := make(chan error, 2)
	go func() { closed <- v.Close() }()
	testkit.Until(t, "the disk is closed for new readers", func() bool {
		_, err := v.ReadAt(nil, 0)
		return errors.Is(err, fs.ErrClosed)
	})
	close(answer)
	readers.Wait()
	if err := errors.Join(<-closed, v.Close()); err != nil {
		t.Error(err)
	}
}

// TestDamageIsTold: a block that is damaged at the Synchronizer is an error that says so, and the others are read.
func TestDamageIsTold(t *testing.T) {
	now := disk(1, 2, 3)
	other := lookedInto(t, now)
	v, err := other.e.OpenDisk(t.Context(), "win7", 1, image.System)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p := make([]byte, 100)
	if _, err := v.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	other.damagedFrames()
	for range 2 {
		if _, err := v.ReadAt(p, block); problem.Of(err).Code != "DS-SERVER-DAMAGED" || problem.Of(err).Exit != problem.Damaged {
			t.Errorf("%v", err)
		}
	}
	other.front.honest()
	if _, err := v.ReadAt(p, 2*block+3*4096); err != nil || !bytes.Equal(p, now[2*block+3*4096:][:100]) {
		t.Errorf("%v", err)
	}
}
