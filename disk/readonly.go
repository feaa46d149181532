package disk

import (
	"errors"
	"iter"

	"disksync/disk/nbd"
	"disksync/vhd"
)

// errReadOnly is for whoever writes without having been kept from it.
var errReadOnly = errors.New("disk: open for reading only")

// NewReadOnly returns a chain as an [nbd.Device] that cannot be written. The chain's files must not change.
func NewReadOnly(c *vhd.Chain) nbd.Device { return readOnly{c} }

type readOnly struct{ *vhd.Chain }

func (r readOnly) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (r readOnly) Zero(_, _ int64) error              { return errReadOnly }
func (r readOnly) Flush() error                       { return nil }

func (r readOnly) Extents(off, length int64) iter.Seq2[Extent, error] {
	return extents(r.Chain.Extents(off, length))
}
