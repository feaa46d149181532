package volume

import (
	"fmt"
	"io"
)

// Device is what a file system lies on: a range of bytes that may be read. It is safe for concurrent use when its reader is.
type Device struct {
	r    io.ReaderAt
	from int64
	size int64
}

// NewDevice returns the first size bytes of r.
func NewDevice(r io.ReaderAt, size int64) *Device { return &Device{r: r, size: max(size, 0)} }

// Size returns the length in bytes.
func (d *Device) Size() int64 { return d.size }

// Sub returns n bytes at off as a device, such as a partition. What lies beyond the end of d is cut off.
func (d *Device) Sub(off, n int64) *Device {
	off = min(max(off, 0), d.size)
	return &Device{d.r, d.from + off, min(max(n, 0), d.size-off)}
}

// ReadAt reads all of p or fails. What begins or ends beyond the device is ErrDamaged: somebody was told to look there.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, Damaged("%d bytes at %d are wanted of a device of %d bytes", len(p), off, d.size)
	}
	n, err := d.r.ReadAt(p, d.from+off)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || err == io.EOF:
		return n, Damaged("the device ends at %d bytes, though it was said to have %d", off+int64(n), d.size)
	}
	return n, err
}

// Budget is how much may still be read of a file system's own structures for one call.
type Budget int64

// NewBudget returns that of one call.
func NewBudget() *Budget {
	b := Budget(MaxWork)
	return &b
}

// Spend takes n bytes off, or fails with ErrLimit when less is left.
func (b *Budget) Spend(n int64) error {
	if n < 0 || n > int64(*b) {
		*b = 0
		return fmt.Errorf("%w: more than %d bytes of its structures would have to be read", ErrLimit, MaxWork)
	}
	*b -= Budget(n)
	return nil
}

// Read reads n bytes of d at off into new memory and counts them. n comes from the medium: it is checked before it is used.
func (b *Budget) Read(d *Device, off, n int64) ([]byte, error) {
	if n < 0 || n > d.size {
		return nil, Damaged("%d bytes are wanted of a device of %d", n, d.size)
	}
	if err := b.Spend(n); err != nil {
		return nil, err
	}
	p := make([]byte, n)
	_, err := d.ReadAt(p, off)
	return p, err
}
