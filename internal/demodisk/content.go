package demodisk

import (
	"errors"
	"io"
	"math/rand/v2"
)

// A chance is a source of random choices that stays the same from one Go release to the next.
type chance struct {
	pcg   *rand.PCG
	words []string
}

const (
	textWords  = 2048
	minLetters = 2
	maxLetters = 11
	seedSalt   = 0x6469736b73796e63
)

func newChance(seed uint64) *chance {
	c := &chance{pcg: rand.NewPCG(seed, seedSalt)}
	for range textWords {
		word := make([]byte, minLetters+c.upTo(maxLetters-minLetters+1))
		for i := range word {
			word[i] = byte('a' + c.upTo(26))
		}
		c.words = append(c.words, string(word)+" ")
	}
	return c
}

// upTo returns a number from 0 to n-1.
func (c *chance) upTo(n int) int { return int(c.pcg.Uint64() % uint64(n)) }

// text appends n bytes that are new but compress as text does.
func (c *chance) text(b []byte, n int) []byte {
	end := len(b) + n
	for len(b) < end {
		b = append(b, c.words[c.upTo(len(c.words))]...)
	}
	return b[:end]
}

// newText returns a file of words.
func newText(size int64, c *chance) io.Reader {
	return io.LimitReader(&produced{next: func(b []byte) ([]byte, error) {
		return c.text(b, editBytes), nil
	}}, size)
}

const (
	editBytes = 16 << 10 // how far changes are apart, at least
	editOneIn = 3        // chunks that are changed
	editMax   = 2 << 10  // bytes taken out, or put in, at one place
)

// newEdited returns a new version of a file: here and there something is taken out and something else put in, so that
// the rest shifts. At least its beginning differs.
func newEdited(old io.Reader, c *chance) io.Reader {
	chunk := make([]byte, editBytes)
	first := true
	return &produced{next: func(b []byte) ([]byte, error) {
		n, err := io.ReadFull(old, chunk)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		if n == 0 {
			return b, err
		}
		kept := chunk[:n]
		if first || c.upTo(editOneIn) == 0 {
			at := c.upTo(n)
			b = append(b, kept[:at]...)
			b = c.text(b, 1+c.upTo(editMax))
			kept = kept[min(n, at+c.upTo(editMax)):]
			first = false
		}
		return append(b, kept...), err
	}}
}

// produced reads what a function produces piece by piece.
type produced struct {
	next func(b []byte) ([]byte, error) // appends a piece to b
	b    []byte
	left []byte
	err  error
}

// Read reads from the pieces.
func (p *produced) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.b, p.err = p.next(p.b[:0])
		p.left = p.b
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}
