package volume

// Pieces reads a file system's own structures from a device in pieces of one size, and remembers those that it read last, up to half
// of [MaxCache]. It is for one goroutine at a time.
type Pieces struct {
	d     *Device
	piece int64
	held  map[int64]int // where in slots a piece is, by its number
	slots []slot
	next  int // the slot that is used again next
}

type slot struct {
	number int64
	b      []byte
}

const (
	piecesBytes = MaxCache / 2
	noPiece     = -1
)

// NewPieces returns the structures on d, which are read so many bytes at once.
func NewPieces(d *Device, piece int64) *Pieces {
	return &Pieces{d: d, piece: piece, held: map[int64]int{}}
}

// View returns n bytes at off, good until the next call. What is asked for counts in the budget, and what is read for it: so
// structures that lead in circles come to an end, remembered or not.
func (c *Pieces) View(b *Budget, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > c.d.size || n > c.d.size-off {
		return nil, Damaged("%d bytes at %d are wanted of %d", n, off, c.d.size)
	}
	number, at := off/c.piece, off%c.piece
	if at+n > c.piece {
		return b.Read(c.d, off, n)
	}
	if err := b.Spend(n); err != nil {
		return nil, err
	}
	if k, ok := c.held[number]; ok {
		return c.slots[k].b[at : at+n], nil
	}
	if err := b.Spend(c.piece); err != nil {
		return nil, err
	}
	p, err := c.load(number)
	if err == nil {
		return p[at : at+n], nil
	}
	// What is wanted may be readable though its neighbours are not.
	p = make([]byte, n)
	if _, again := c.d.ReadAt(p, off); again != nil {
		return nil, err
	}
	return p, nil
}

// load reads a piece in place of the one that has been held for longest.
func (c *Pieces) load(number int64) ([]byte, error) {
	if int64(len(c.slots)+1)*c.piece <= piecesBytes {
		c.next = len(c.slots)
		c.slots = append(c.slots, slot{noPiece, make([]byte, c.piece)})
	}
	s := &c.slots[c.next]
	delete(c.held, s.number)
	start := number * c.piece
	s.number, s.b = noPiece, s.b[:min(c.piece, c.d.size-start)]
	if _, err := c.d.ReadAt(s.b, start); err != nil {
		return nil, err
	}
	s.number = number
	c.held[number] = c.next
	c.next = (c.next + 1) % len(c.slots)
	return s.b, nil
}
