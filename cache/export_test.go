package cache

import (
	"io"
	"os"
)

// Wrap puts something between a Source and the files of its medium.
func (s *Source) Wrap(wrap func(io.ReaderAt) io.ReaderAt) {
	for d, p := range s.places {
		p.r = wrap(p.r)
		s.places[d] = p
	}
}

// OpenRegular opens a name in a folder as a scan does.
func OpenRegular(root *os.Root, name string) error {
	f, err := openRegular(root, name)
	if err != nil {
		return err
	}
	return f.Close()
}

// ReadAtLeast sets how many bytes are read at once, where so many are wanted.
func (s *Source) ReadAtLeast(n int64) { s.least = n }
