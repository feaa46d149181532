package vhd

import (
	"context"
	"fmt"
	"io"

	"disksync/image"
)

// Stream writes a whole VHD with the content of src to w from its first byte to its last, without seeking: to a pipe, a
// network or an archive. o says what it becomes, as with [Convert].
//
// A dynamic disk's table comes before its blocks, so every block in which src has a run is written, of zeros or not; see
// [CopyOptions.DetectZeros]. src must not change meanwhile. A stream that breaks off does not open as a VHD.
func Stream(ctx context.Context, w io.Writer, src Source, o CreateOptions, c CopyOptions) error {
	p, err := planStream(ctx, src, o, c)
	if err != nil {
		return err
	}
	return p.write(ctx, &counter{w: w}, c)
}

// StreamLength returns how many bytes Stream writes for the same arguments. With DetectZeros it reads the source.
func StreamLength(ctx context.Context, src Source, o CreateOptions, c CopyOptions) (int64, error) {
	p, err := planStream(ctx, src, o, c)
	if err != nil {
		return 0, err
	}
	return max(p.end, p.footerAt) + FooterSize, nil
}

// StreamRaw writes the content of src to w as a raw disk. Holes are not read; their zeros are written.
func StreamRaw(ctx context.Context, w io.Writer, src Source, c CopyOptions) error {
	return streamData(ctx, &counter{w: w}, src, c, src.Size())
}

// streamPlan says where everything goes before anything is written.
type streamPlan struct {
	*blocks // nil for a fixed disk
	l       *layout
	src     Source
	end     int64
	// footerAt is where the footer must be, 0 when it follows the last block.
	footerAt int64
}

func planStream(ctx context.Context, src Source, o CreateOptions, c CopyOptions) (*streamPlan, error) {
	l, err := layoutFor(src, o)
	if err != nil {
		return nil, err
	}
	p := &streamPlan{l: l, src: src, footerAt: l.footerAt, end: l.footer.Size}
	if l.header == nil {
		return p, nil
	}
	p.blocks = newBlocks(l, src)
	if c.DetectZeros && l.footer.Type == Dynamic {
		u := p.pump(CopyOptions{})
		u.turn = func(q *piece) error {
			if image.IsZero(q.data) {
				return nil
			}
			return p.place(q)
		}
		err = u.run(ctx)
	} else {
		err = p.placeAll(ctx)
	}
	p.end = p.blocks.end
	return p, err
}

// placeAll places every block that has a run.
func (p *streamPlan) placeAll(ctx context.Context) error {
	size := p.header.BlockSize
	for off := int64(0); ; {
		start, end, err := p.src.NextRun(off)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || start >= end {
			return err
		}
		for block := start / size; block*size < end; block++ {
			if p.table[block] != unallocated {
				continue
			}
			if err := p.place(&piece{off: block * size}); err != nil {
				return err
			}
		}
		off = end
	}
}

func (p *streamPlan) write(ctx context.Context, out *counter, c CopyOptions) error {
	if p.blocks == nil {
		if err := streamData(ctx, out, p.src, c, p.end); err != nil {
			return err
		}
		return p.writeFooter(out)
	}
	if err := out.write(p.head()); err != nil {
		return err
	}
	for table := p.table; len(table) > 0; {
		n := min(len(table), 64<<10)
		if err := out.write(tableBytes(table[:n])); err != nil {
			return err
		}
		table = table[n:]
	}
	u := p.pump(c)
	u.turn = func(q *piece) error {
		entry := p.table[q.off/p.header.BlockSize]
		if entry == unallocated {
			return nil // zeros
		}
		if err := out.zeros(int64(entry) * sectorSize); err != nil {
			return err
		}
		b, err := p.fill(q)
		if err != nil {
			return err
		}
		if err := out.write(b); err != nil {
			return err
		}
		return out.zeros(int64(entry)*sectorSize + p.bitmapSize + p.header.BlockSize)
	}
	if err := u.run(ctx); err != nil {
		return err
	}
	return p.writeFooter(out)
}

func (p *streamPlan) writeFooter(out *counter) error {
	if err := out.zeros(max(p.end, p.footerAt)); err != nil {
		return err
	}
	return out.write(p.l.footer.marshal())
}

// streamData writes the content, and then zeros up to size.
func streamData(ctx context.Context, out *counter, src Source, c CopyOptions, size int64) error {
	u := &pump{src: src, unit: pumpUnit, from: out.at, progress: c.Progress, turn: func(p *piece) error {
		if err := out.zeros(p.off); err != nil {
			return err
		}
		return out.write(p.data)
	}}
	if err := u.run(ctx); err != nil {
		return err
	}
	return out.zeros(size)
}

// counter writes and knows where it is.
type counter struct {
	w     io.Writer
	at    int64
	blank []byte
}

func (c *counter) write(b []byte) error {
	n, err := c.w.Write(b)
	c.at += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("vhd: write at %d of the stream: %w", c.at, err)
	}
	return nil
}

// zeros writes zeros up to the offset to.
func (c *counter) zeros(to int64) error {
	for c.at < to {
		if c.blank == nil {
			c.blank = make([]byte, zeroChunk)
		}
		if err := c.write(c.blank[:min(to-c.at, zeroChunk)]); err != nil {
			return err
		}
	}
	return nil
}
