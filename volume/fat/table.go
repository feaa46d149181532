package fat

import (
	"disksync/volume"
)

// Table is a file allocation table. It is for one goroutine at a time.
type Table struct {
	Kind     Kind
	Entries  *volume.Pieces // of the table and nothing else
	Clusters int64          // how many there are, numbered from FirstCluster
	Cluster  int64          // bytes of one
	DataAt   int64          // where the first is, in bytes
}

// TablePiece is how much of a table is read at once: links mostly lead to the next entry.
const TablePiece = 16 << 10

// Entry returns an entry of the table.
func (t *Table) Entry(b *volume.Budget, i int64) (uint32, error) {
	at, n := t.Kind.EntryAt(i)
	p, err := t.Entries.View(b, at, n)
	if err != nil {
		return 0, err
	}
	return t.Kind.Entry(p, i), nil
}

// Has reports whether there is a cluster of that number.
func (t *Table) Has(cluster int64) bool {
	return cluster >= FirstCluster && cluster < t.Clusters+FirstCluster
}

// File returns where a file of size bytes is that begins in a cluster. A file that has fewer clusters than that, or more, or goes in
// circles, is ErrDamaged.
func (t *Table) File(b *volume.Budget, first uint32, size int64) (*volume.Extents, error) {
	if size == 0 {
		return &volume.Extents{}, nil
	}
	n := (size + t.Cluster - 1) / t.Cluster
	if size < 0 || n > t.Clusters {
		return nil, volume.Damaged("a file of %d bytes on a volume of %d clusters", size, t.Clusters)
	}
	x, more, err := t.chain(b, first, n)
	switch {
	case err != nil:
		return nil, err
	case more:
		return nil, volume.Damaged("a file of %d bytes has more than %d clusters", size, n)
	case x.Size() < size:
		return nil, volume.Damaged("a file of %d bytes has %d in its clusters", size, x.Size())
	}
	return x, nil
}

// Folder returns where a folder is whose length is nowhere but in its chain, at most limit bytes of it. With an error it returns what
// comes before.
func (t *Table) Folder(b *volume.Budget, first uint32, limit int64) (*volume.Extents, error) {
	x, more, err := t.chain(b, first, max(min(limit/t.Cluster, t.Clusters), 1))
	if err == nil && more {
		err = volume.Damaged("a folder is longer than %d bytes", x.Size())
	}
	return x, err
}

// InOnePiece returns where size bytes are that begin in a cluster and go on in the next ones.
func (t *Table) InOnePiece(first uint32, size int64) (*volume.Extents, error) {
	x := &volume.Extents{}
	if size == 0 {
		return x, nil
	}
	n := (size + t.Cluster - 1) / t.Cluster
	if size < 0 || (!t.Has(int64(first)) || !t.Has(int64(first)+n-1)) {
		return nil, volume.Damaged("%d bytes in one piece from cluster %d on", size, first)
	}
	return x, x.Append(t.DataAt+(int64(first)-FirstCluster)*t.Cluster, n*t.Cluster)
}

// chain follows at most n links. It reports whether there are more.
func (t *Table) chain(b *volume.Budget, first uint32, n int64) (x *volume.Extents, more bool, err error) {
	x = &volume.Extents{}
	c := int64(first)
	for range n {
		if !t.Has(c) {
			return x, false, volume.Damaged("a chain of clusters leads to %#x", c)
		}
		if err := x.Append(t.DataAt+(c-FirstCluster)*t.Cluster, t.Cluster); err != nil {
			return x, false, err
		}
		e, err := t.Entry(b, c)
		if err != nil {
			return x, false, err
		}
		if t.Kind.Last(e) {
			return x, false, nil
		}
		c = int64(e)
	}
	return x, true, nil
}
