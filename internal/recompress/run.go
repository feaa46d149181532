package recompress

// Run is a stretch of a deflate stream that was taken apart: whole blocks, one behind the other.
type Run struct {
	Start, End int // in bits from the beginning of the bytes that were scanned, the lowest of a byte first

	buf    []byte // what is unpacked, behind up to 32 KiB of what was before
	window int    // bytes of buf that were before
	blocks []block
	tokens []token
	bits   []byte // what the headers of blocks are places in
}

// Plain returns what the run unpacks to. It must not be changed.
func (r *Run) Plain() []byte { return r.buf[r.window:] }

// Size returns how many bytes the run takes where it is taken apart, but for the recipe.
func (r *Run) Size() int { return len(r.buf) }
