package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// CopyOptions changes how content is copied. The zero value is good.
type CopyOptions struct {
	// Progress is told how many of the disk's bytes are done, holes included; nil: nobody is. Calls come one after the other, and
	// hold the work up while they last.
	Progress func(done, total int64)
	// DetectZeros leaves blocks out of a stream that hold zeros only although the source has data there. A stream tells where its
	// blocks are before it brings them, so the source is read twice. [Convert] detects zeros in any case.
	DetectZeros bool
}

const (
	// pumpWorkers is how many pieces are on their way at once: one is read while another is written, and a third keeps both
	// from waiting.
	pumpWorkers = 3
	// pumpUnit is the size of a piece where the output sets none, in bytes.
	pumpUnit = 1 << 20
	// maxCopyBlock bounds the block size of copies, and with it the memory: pumpWorkers times that.
	maxCopyBlock = 64 << 20
)

// pump brings a source's data somewhere else, in pieces that do not cross a multiple of unit. Several are read and written at
// once; memory is bounded by pumpWorkers pieces.
type pump struct {
	src  Source
	unit int64
	from int64 // where in the disk to begin
	// exact brings the runs as they are; else a piece is all of a unit in which there is a run.
	exact bool
	room  int // spare bytes in front of a piece's data
	// turn, when set, is called for one piece after the other in the order of the disk.
	turn func(*piece) error
	// work, when set, is called after turn, for one piece at a time in any order.
	work     func(*piece) error
	progress func(done, total int64)

	working sync.Mutex // held during work

	mu   sync.Mutex
	done int64
}

// piece is a part of a disk on its way.
type piece struct {
	off  int64  // in the disk
	data []byte // from off on
	full []byte // pump.room bytes, then data
	at   int64  // for the use of turn and work
}

// task is a piece that is to be read.
type task struct {
	off, length int64
	skipped     int64         // bytes without data in front of it
	prev, next  chan struct{} // closed when the turn of the piece before, or of this one, is over
}

// run returns when everything is done or has stopped after an error.
func (u *pump) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	tasks := make(chan task)
	var workers sync.WaitGroup
	for range pumpWorkers {
		workers.Go(func() {
			var buf []byte
			for t := range tasks {
				if buf == nil {
					buf = make([]byte, int64(u.room)+min(u.unit, u.src.Size()))
				}
				u.move(ctx, cancel, t, buf[:int64(u.room)+t.length])
			}
		})
	}
	if err := u.cut(ctx, tasks); err != nil {
		cancel(err)
	}
	close(tasks)
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	u.tell(u.src.Size() - u.done)
	return nil
}

// cut hands out the pieces in order.
func (u *pump) cut(ctx context.Context, tasks chan<- task) error {
	size := u.src.Size()
	prev := make(chan struct{})
	close(prev)
	done := u.from // up to here everything is handed out or without data
	u.done = u.from
	for off := u.from; ; {
		start, end, err := u.src.NextRun(off)
		if err != nil {
			return err
		}
		if end = min(end, size); start >= end {
			return nil
		}
		off = end
		if !u.exact {
			start, end = start/u.unit*u.unit, min(roundUp(end, u.unit), size)
		}
		for start = max(start, done); start < end; {
			t := task{off: start, length: min(u.unit-start%u.unit, end-start), skipped: start - done, prev: prev,
				next: make(chan struct{})}
			prev = t.next
			select {
			case tasks <- t:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			start += t.length
			done = start
		}
	}
}

// move reads a piece, waits for its turn and works on it.
func (u *pump) move(ctx context.Context, cancel context.CancelCauseFunc, t task, buf []byte) {
	p := &piece{off: t.off, data: buf[u.room:], full: buf}
	err := ctx.Err()
	if err == nil {
		err = u.read(p.data, p.off)
	}
	<-t.prev
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && u.turn != nil {
		err = u.turn(p)
	}
	if err != nil {
		cancel(err) // before the next has its turn
	}
	close(t.next)
	if err == nil && u.work != nil {
		err = u.worked(p)
	}
	if err != nil {
		cancel(err)
		return
	}
	u.tell(t.skipped + t.length)
}

// worked calls work for one piece at a time: systems write to a file one after the other anyway, and several that wait for
// their turn there cost more time than they save.
func (u *pump) worked(p *piece) error {
	u.working.Lock()
	defer u.working.Unlock()
	return u.work(p)
}

// read fills b. Where there are no runs it does not ask the source for zeros, which would cost as much as data.
func (u *pump) read(b []byte, off int64) error {
	if u.exact {
		return readSource(u.src, b, off)
	}
	for len(b) > 0 {
		start, end, err := u.src.NextRun(off)
		if err != nil {
			return err
		}
		n := int64(len(b))
		if start >= end {
			start, end = off+n, off+n
		}
		start, end = min(start-off, n), min(end-off, n)
		clear(b[:start])
		if err := readSource(u.src, b[start:end], off+start); err != nil {
			return err
		}
		b, off = b[end:], off+end
	}
	return nil
}

func (u *pump) tell(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.done += n
	if u.progress != nil && n > 0 {
		u.progress(u.done, u.src.Size())
	}
}

// readSource reads exactly len(b) bytes. A source that ends too early is an error.
func readSource(r io.ReaderAt, b []byte, off int64) error {
	if len(b) == 0 {
		return nil
	}
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("vhd: read %d bytes of the source at %d: %w", len(b), off, err)
}
