package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/layer"
)

// badFrame says that a frame of a file is not good.
type badFrame struct {
	frame layer.Frame
	err   error
}

func (e *badFrame) Error() string { return e.err.Error() }
func (e *badFrame) Unwrap() error { return e.err }

// check reads a file of the medium past the system's memory and checks every block. It returns the number of blocks.
func (w *writer) check(ctx context.Context, name string, o *output) (int, error) {
	in, err := w.fsys.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return 0, err
	}
	in.DropCache()
	return w.checkIn(ctx, io.NewSectionReader(in, 0, size), o)
}

// checkIn is check for a file that may be a stretch of another.
func (w *writer) checkIn(ctx context.Context, in *io.SectionReader, o *output) (int, error) {
	var keys []image.MediaKey
	if o.key != nil {
		keys = append(keys, *o.key)
	}
	h, err := layer.ReadHolding(in, in.Size(), keys...)
	if err != nil {
		return 0, err
	}
	first, n := h.Range()
	if h.Index().ID() != o.x.ID() || o.n > 0 && (first != o.first || n != o.n) || h.Sealed() != (o.key != nil) {
		return 0, fmt.Errorf("it holds other blocks, %d from number %d on of layer %s", n, first, h.Index().ID().Short())
	}
	if h.FileSize() != in.Size() {
		return 0, fmt.Errorf("%w: %d bytes, not %d", layer.ErrFormat, in.Size(), h.FileSize())
	}
	// The disks that differences start from need not be unpacked for this: their frames have check sums.
	return n, verifyHolding(ctx, h, in, func(done, total int64) { w.Progress("verify "+o.name, done, total) })
}

// verifyHolding checks all frames of a file and ends with the first bad one.
func verifyHolding(ctx context.Context, h *layer.Holding, in io.ReaderAt, progress func(done, total int64)) error {
	var mu sync.Mutex
	done := int64(0)
	err := h.Verify(ctx, in, func(f layer.Frame, err error) error {
		mu.Lock()
		defer mu.Unlock()
		done += int64(f.Length)
		progress(done, h.FileSize())
		if err != nil {
			return &badFrame{f, err}
		}
		return nil
	})
	if err == nil {
		progress(h.FileSize(), h.FileSize()) // the index is read as well
	}
	return err
}

// errKept says that it is not the medium which is bad.
var errKept = errors.New("the Synchronizer sends it so")

func serverDamaged(id image.LayerID, err error) error {
	return fmt.Errorf("layer %s: %w: %w", id.Short(), errKept, err)
}

// blame finds out whose fault it is that a file does not pass the check: whether the Synchronizer sends a good frame.
func (w *writer) blame(ctx context.Context, err error, o *output) error {
	bad, ok := errors.AsType[*badFrame](err)
	if !ok || !errors.Is(err, layer.ErrCorrupt) {
		return fmt.Errorf("read back: %w", err)
	}
	in := &feed{c: w.c, ref: image.LayerRef{ID: o.x.ID(), Length: o.x.FileSize()}, at: bad.frame.Offset, end: bad.frame.Offset + int64(bad.frame.Length)}
	defer in.close()
	packed := make([]byte, bad.frame.Length)
	if fetchErr := in.read(ctx, packed); fetchErr != nil {
		return errors.Join(err, fetchErr)
	}
	dec := layer.NewDecoder(1)
	defer dec.Close()
	if again := dec.Check(make([]byte, image.BlockSize), bad.frame, packed); again != nil {
		return serverDamaged(o.x.ID(), again)
	}
	return fmt.Errorf("read back: %w", err)
}

// explain tells people why something is not on the medium; size is that of the file, bytes, 0 when it does not matter.
func explain(err error, dir, what string, size int64) error {
	const good = "files that are complete stay, and are good"
	switch {
	case err == nil:
		return nil
	case problem.Of(err).Code != "DS-FAILED":
		return err
	case errors.Is(err, errPart):
		return problem.New("DS-USAGE", problem.Usage, err, "the parts are too small", "nothing was written", "give a larger size")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem.New("DS-MEDIA-SPACE", problem.NoSpace, err, "no room on the medium "+dir, good, "use a larger medium")
	case errors.Is(err, syscall.EFBIG):
		return problem.New("DS-MEDIA-FILESIZE", problem.NoSpace, err, fmt.Sprintf("the file system of %s takes no file of %d bytes", dir, size), good,
			"give --part-size 4G, or format the medium with NTFS, exFAT or ext4")
	case errors.Is(err, errKept):
		return problem.New("DS-SERVER-DAMAGED", problem.Damaged, err, "what the Synchronizer has as a layer is not that layer", good,
			"the administrator of the Synchronizer has to look at its disk")
	case errors.Is(err, layer.ErrCorrupt), errors.Is(err, layer.ErrFormat), errors.Is(err, syscall.EIO):
		return problem.New("DS-MEDIA-BAD", problem.Damaged, err, "the medium "+dir+" does not keep what is written to it", good, "use another medium")
	}
	return fmt.Errorf("write %s: %w", what, err)
}
