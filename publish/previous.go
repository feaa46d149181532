package publish

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"disksync/image"
)

// local reads the disk that a difference starts from out of a file of this machine, as far as that has it: each block is compared with
// its digest before anything of it is used. The others come from the Synchronizer. It is safe for concurrent use.
type local struct {
	state image.State
	views []io.ReaderAt // of the file: with what is free left out, and as it is
	rest  io.ReaderAt
	// seen says of a block which view has it, counted from 1; rest has it when it is none of them. 0: nobody has looked.
	seen      []atomic.Uint32
	own, lack atomic.Int64 // blocks that the file has, and has not
	buffers   sync.Pool
}

// fromDisk is the disk that a difference starts from.
type fromDisk struct {
	disk   io.ReaderAt // nil when there is none
	files  []*Source   // what it is read from here
	opened []io.Closer // with an error as well
	warn   func()      // says what is to be said of it when it was read
}

// openFrom opens the disk that the difference of d is to start from: as the newest version has it, in the state from.
func (p *run) openFrom(ctx context.Context, d Disk, from image.State) (b fromDisk, err error) {
	b.warn = func() {}
	file := p.Previous[d.Role]
	if from.Size == 0 {
		if file != "" {
			p.Warn(file + " was not read: this disk has no version before")
		}
		return b, nil
	}
	rd, opened, err := p.openVersion(ctx, p.newest.Version, d.Role)
	b.opened = opened
	if err != nil {
		return b, fmt.Errorf("version %d, which the difference starts from: %w", p.newest.Version, err)
	}
	if b.disk = rd; file == "" {
		return b, nil
	}
	l, src, err := p.localDisk(ctx, d, from, rd)
	if err != nil {
		return b, err
	}
	b.disk, b.files, b.opened = l, []*Source{src}, append(b.opened, src)
	b.warn = func() {
		if text := l.warning(file, p.newest.Version); text != "" {
			p.Warn(text)
		}
	}
	return b, nil
}

// localDisk opens the file that the newest version's disk is said to be in.
func (p *run) localDisk(ctx context.Context, d Disk, from image.State, rest io.ReaderAt) (*local, *Source, error) {
	src, err := Open(p.Previous[d.Role], d.Format, nil)
	if err != nil {
		return nil, nil, err
	}
	l := &local{
		state: from, rest: rest, seen: make([]atomic.Uint32, len(from.Blocks)),
		buffers: sync.Pool{New: func() any { return new([image.BlockSize]byte) }},
	}
	all := *src
	// Where that cannot be told, the version may have been published with its free space as well.
	if m, err := p.FindFree(ctx, &all); err == nil && m.Free() > 0 {
		l.views = append(l.views, m.Disk(&all))
	}
	if ctx.Err() != nil {
		src.Close()
		return nil, nil, context.Cause(ctx)
	}
	l.views = append(l.views, &all)
	return l, src, nil
}

// ReadAt implements io.ReaderAt.
func (l *local) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		at := off + int64(n)
		if at >= l.state.Size {
			return n, io.EOF
		}
		part := p[n:min(int64(len(p)), int64(n)+image.BlockSize-at%image.BlockSize, int64(n)+l.state.Size-at)]
		if err := l.read(part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}

// read reads a part of one block.
func (l *local) read(p []byte, at int64) error {
	block := int(at / image.BlockSize)
	if l.state.Blocks[block].IsZero() {
		clear(p)
		return nil
	}
	view := l.seen[block].Load()
	if view == 0 {
		var done bool
		if view, done = l.look(block, p, at%image.BlockSize); done {
			return nil
		}
	}
	if int(view) <= len(l.views) && readFull(l.views[view-1], p, at) == nil {
		return nil
	}
	return readFull(l.rest, p, at)
}

// readFull sets p to what is at off.
func readFull(from io.ReaderAt, p []byte, off int64) error {
	_, err := io.ReadFull(io.NewSectionReader(from, off, int64(len(p))), p)
	return err
}

// look finds the view that has a block. It sets p to what is there at the place in, and done says that there is one.
func (l *local) look(block int, p []byte, in int64) (view uint32, done bool) {
	buf := l.buffers.Get().(*[image.BlockSize]byte)
	defer l.buffers.Put(buf)
	start := int64(block) * image.BlockSize
	n := min(image.BlockSize, l.state.Size-start)
	clear(buf[n:])
	for i, v := range l.views {
		// What cannot be read here comes from the Synchronizer as well.
		if readFull(v, buf[:n], start) != nil || image.SumBlock(buf[:]) != l.state.Blocks[block] {
			continue
		}
		copy(p, buf[in:])
		if l.seen[block].CompareAndSwap(0, uint32(i+1)) {
			l.own.Add(1)
		}
		return uint32(i + 1), true
	}
	none := uint32(len(l.views) + 1)
	if l.seen[block].CompareAndSwap(0, none) {
		l.lack.Add(1)
	}
	return none, false
}

// warning says that the file is another disk than it should be; "" when it is that or nearly that.
func (l *local) warning(path string, v image.Version) string {
	own, lack := l.own.Load(), l.lack.Load()
	if lack <= own {
		return ""
	}
	return fmt.Sprintf("%s is not version %d: %d of %d blocks that were needed came from the Synchronizer", path, v, lack, own+lack)
}
