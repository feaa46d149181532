package layer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"disksync/image"
)

// Disk is content to encode. ReadAt must be safe for concurrent use.
type Disk interface {
	io.ReaderAt
	Size() int64 // bytes
}

// DataSeeker is a Disk that knows where it has no data, so that nothing is read there.
type DataSeeker interface {
	// NextData returns the offset of the first byte at or behind off that may be other than zero; the disk's size when there
	// is none.
	NextData(off int64) (int64, error)
}

// ErrSame is returned by Encode when the disk has the content of From.
var ErrSame = errors.New("nothing has changed")

// EncodeOptions tunes Encode. The zero value is good.
type EncodeOptions struct {
	Level zstd.EncoderLevel // of frames without references; 0: SpeedBetterCompression
	// FromDisk is the content of the state that the layer starts from, safe for concurrent use. With it frames hold what is
	// different and not whole blocks; nil: whole blocks.
	FromDisk io.ReaderAt
	// Workers is the number of goroutines that read, hash and compress; 0: one for each processor. Each holds up to about 24
	// MiB; with FromDisk 52 MiB, or 90 where there are many deflate streams, and all together tables of up to 100 MiB. Where little is
	// new and Near is set it is a fraction of that.
	Workers int
	// Changed says of a block whether it may differ from the state that the layer starts from. Others are not read and keep their
	// digest, and whoever gives it answers for that; nil: every block may differ. The last block of a smaller disk that a new size
	// cuts or extends is read in any case. It is called from one goroutine, once for each block at most.
	Changed func(block int) bool
	// New is about how many bytes of the disk have no counterpart in FromDisk, where that is known: tables are made for so many. 0: all.
	New int64
	// Near looks for similar content only around where a block was, and in what is new: elsewhere means to read all of FromDisk, which
	// is not worth it for a few changes to a large disk.
	Near bool
	// Fast packs a block that is new but for little as a whole, which takes a fraction of the time and some more bytes.
	Fast bool
	// Progress is called with the number of bytes of the disk that are done, from one goroutine; may be nil.
	Progress func(done int64)
}

// Result is what Encode made.
type Result struct {
	Index *Index
	State image.State // of the disk
	Bytes int64       // written
}

// Encode writes the layer that leads from the state from (the zero State for a full image) to the content of disk. Every
// block is read once, but for those that o.Changed says no of; equal input gives equal output. It returns ErrSame, having written a
// header, when there is no difference.
func Encode(ctx context.Context, w io.Writer, from image.State, disk Disk, o EncodeOptions) (Result, error) {
	if !image.ValidSize(disk.Size()) {
		return Result{}, fmt.Errorf("a disk of %d bytes; want a multiple of %d, at most %d",
			disk.Size(), image.SectorSize, int64(image.MaxDiskSize))
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Level == 0 {
		o.Level = zstd.SpeedBetterCompression
	}
	e := &encoder{w: w, from: from.Resized(disk.Size()), disk: disk, o: o}
	if from.Size == 0 {
		e.o.FromDisk = nil
	}
	if !o.Near {
		e.similar = sync.OnceValues(func() (*similar, error) { return newSimilar(ctx, o.FromDisk, from, o.Workers) })
	}
	e.fromSize = from.Size
	if o.New <= 0 || o.New > disk.Size() {
		o.New = disk.Size()
	}
	e.fresh = newFresh(disk.Size(), o.New)
	e.state = image.State{Size: disk.Size(), Blocks: make([]image.Digest, image.BlockCount(disk.Size()))}
	if err := e.write(header()); err != nil {
		return Result{}, err
	}
	if err := e.run(ctx); err != nil {
		return Result{}, err
	}
	return e.finish(from)
}

type encoder struct {
	w     io.Writer
	off   int64
	from  image.State
	disk  Disk
	o     EncodeOptions
	state image.State
	table []byte // frame entries

	fromSize int64
	similar  func() (*similar, error) // what is similar in the From disk
	fresh    *fresh
}

// job is one block on its way through the workers. The channel done is closed when the fields behind it are set.
type job struct {
	block int
	done  chan struct{}
	// before is closed when all blocks before have had their turn to be looked at, turned when this one has.
	before, turned chan struct{}

	digest image.Digest
	codec  Codec
	level  uint8
	frame  []byte
	same   bool
	err    error
}

// run sends the blocks through the workers and writes the results in order. The queue bounds the blocks in flight, whose frames may be as
// large as they are.
func (e *encoder) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	todo, order := make(chan *job), make(chan *job, e.o.Workers)
	var wg sync.WaitGroup
	// The workers must be gone before the disk is closed by our caller.
	defer wg.Wait()
	defer cancel()
	var feedErr error
	wg.Go(func() {
		defer close(todo)
		defer close(order)
		feedErr = e.feed(ctx, todo, order)
	})
	for range e.o.Workers {
		wg.Go(func() { e.work(todo) })
	}
	for j := range order {
		<-j.done
		if j.err != nil {
			return fmt.Errorf("block %d: %w", j.block, j.err)
		}
		if err := e.emit(j); err != nil {
			return err
		}
		if j.frame != nil {
			framePool.Put(&j.frame)
		}
		if e.o.Progress != nil {
			e.o.Progress(min(int64(j.block+1)*image.BlockSize, e.disk.Size()))
		}
	}
	if feedErr != nil {
		return feedErr
	}
	if ctx.Err() == nil && e.o.Progress != nil {
		e.o.Progress(e.disk.Size()) // nothing is told of zeros, which a disk often ends with
	}
	return ctx.Err()
}

// feed makes a job of each block that may hold data or that was not zero before.
func (e *encoder) feed(ctx context.Context, todo, order chan<- *job) error {
	holes, _ := e.disk.(DataSeeker)
	data := int64(0) // nothing but zeros between the current block and here
	before := make(chan struct{})
	close(before)
	for block := range e.state.Blocks {
		start := int64(block) * image.BlockSize
		if e.unchanged(block) {
			e.state.Blocks[block] = e.from.Block(block)
			continue
		}
		if holes != nil && data <= start {
			next, err := holes.NextData(start)
			if err != nil {
				return fmt.Errorf("look for data behind %d: %w", start, err)
			}
			data = next
		}
		j := &job{block: block, done: make(chan struct{})}
		if holes != nil && data >= start+image.BlockSize {
			if e.from.Block(block).IsZero() {
				continue
			}
			close(j.done) // known to be zero: no worker needed
			if !send(ctx, order, j) {
				return ctx.Err()
			}
			continue
		}
		j.before, j.turned = before, make(chan struct{})
		before = j.turned
		if !send(ctx, order, j) || !send(ctx, todo, j) {
			// A job that the writer waits for must be answered.
			j.err = ctx.Err()
			close(j.done)
			return ctx.Err()
		}
	}
	return nil
}

// unchanged reports whether a block is known to be as it was. Where the size changes the block at the shorter end may have lost
// bytes, so that it counts as changed.
func (e *encoder) unchanged(block int) bool {
	if e.o.Changed == nil {
		return false
	}
	if shorter := min(e.fromSize, e.disk.Size()); e.fromSize != e.disk.Size() && shorter > 0 && block == int((shorter-1)/image.BlockSize) {
		return false
	}
	return !e.o.Changed(block)
}

func send(ctx context.Context, c chan<- *job, j *job) bool {
	select {
	case c <- j:
		return true
	case <-ctx.Done():
		return false
	}
}

// framePool recycles the compressed blocks, each as large as it had to be.
var framePool = sync.Pool{New: func() any { return new([]byte) }}

func (e *encoder) work(todo <-chan *job) {
	p := &packer{block: make([]byte, image.BlockSize), level: e.o.Level}
	if e.o.FromDisk != nil {
		p.differ = newDiffer(e.o.FromDisk, e.fromSize, e.disk, e.similar, e.fresh, !e.o.Near)
		p.differ.fast = e.o.Fast
		defer p.differ.free()
	}
	for j := range todo {
		j.err = e.encode(j, p)
		j.turn(func() {})
		close(j.done)
	}
}

// turn calls do when all blocks before had their turn; the first time, for a block has one turn.
func (j *job) turn(do func()) {
	<-j.before
	select {
	case <-j.turned:
	default:
		do()
		close(j.turned)
	}
}

// packer is what a worker needs. What is large grows with what there is to do.
type packer struct {
	block  []byte
	out    []byte
	differ *differ // nil: frames have no references
	level  zstd.EncoderLevel
	zstd   *zstd.Encoder // nil until it is needed
}

// whole packs the block by itself.
func (p *packer) whole() []byte {
	if p.zstd == nil {
		z, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(p.level), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(image.BlockSize), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)) // the digest is the check
		if err != nil {
			panic("layer: internal error: zstd options: " + err.Error())
		}
		p.zstd = z
	}
	return p.zstd.EncodeAll(p.block, slices.Grow(p.out[:0], image.BlockSize))
}

// encode reads and packs one block.
func (e *encoder) encode(j *job, p *packer) error {
	start := int64(j.block) * image.BlockSize
	n := min(e.disk.Size()-start, image.BlockSize)
	clear(p.block[n:])
	if err := readDisk(e.disk, p.block[:n], start); err != nil {
		return err
	}
	j.digest = image.SumBlock(p.block)
	if j.same = j.digest == e.from.Block(j.block); j.same || j.digest.IsZero() {
		return nil
	}
	err := errNew
	if p.differ != nil {
		p.out, j.codec, j.level, err = p.differ.encode(p.out[:0], p.block, j.block, j.turn)
	}
	switch {
	case errors.Is(err, errNew):
		j.codec, j.level, p.out = Zstd, 0, p.whole()
	case err != nil:
		return err
	}
	frame := p.out
	// What saves next to nothing is not worth unpacking.
	if len(frame) > image.BlockSize-image.BlockSize/64 {
		j.codec, j.level, frame = Stored, 0, p.block
	}
	buf := framePool.Get().(*[]byte)
	j.frame = append((*buf)[:0], frame...)
	return nil
}

func readDisk(disk Disk, p []byte, off int64) error {
	n, err := disk.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the disk at %d: %w", off, err)
}

// emit writes one block's frame and its entry.
func (e *encoder) emit(j *job) error {
	e.state.Blocks[j.block] = j.digest
	if j.same {
		return nil
	}
	b := make([]byte, frameEntrySize)
	binary.BigEndian.PutUint32(b, uint32(j.block))
	b[4], b[5] = byte(j.codec), j.level
	if j.codec.refers() {
		binary.BigEndian.PutUint32(b[8:], crc32.Checksum(j.frame, crcTable))
	}
	binary.BigEndian.PutUint32(b[12:], uint32(len(j.frame)))
	binary.BigEndian.PutUint64(b[16:], uint64(e.off))
	copy(b[24:], j.digest[:])
	e.table = append(e.table, b...)
	return e.write(j.frame)
}

func (e *encoder) write(b []byte) error {
	if _, err := e.w.Write(b); err != nil {
		return fmt.Errorf("write layer: %w", err)
	}
	e.off += int64(len(b))
	return nil
}

// finish writes index and trailer.
func (e *encoder) finish(from image.State) (Result, error) {
	to := e.state.ID()
	fromID := from.ID()
	if to == fromID {
		return Result{State: e.state}, ErrSame
	}
	b := make([]byte, indexHeaderSize, indexHeaderSize+len(e.table))
	copy(b, indexMagic)
	binary.BigEndian.PutUint32(b[8:], formatVersion)
	copy(b[16:], fromID[:])
	copy(b[48:], to[:])
	binary.BigEndian.PutUint64(b[80:], uint64(from.Size))
	binary.BigEndian.PutUint64(b[88:], uint64(e.state.Size))
	binary.BigEndian.PutUint32(b[96:], image.BlockSize)
	binary.BigEndian.PutUint32(b[100:], uint32(len(e.table)/frameEntrySize))
	b = append(b, e.table...)
	x, err := ParseIndex(b, sha256.Sum256(b))
	if err != nil {
		return Result{}, fmt.Errorf("layer: internal error: %w", err)
	}
	if err := e.write(b); err != nil {
		return Result{}, err
	}
	if err := e.write(x.trailer()); err != nil {
		return Result{}, err
	}
	return Result{Index: x, State: e.state, Bytes: e.off}, nil
}
