package cache

import "io"

// Wrap puts something between a Source and the files of its medium.
func (s *Source) Wrap(wrap func(io.ReaderAt) io.ReaderAt) {
	for d, p := range s.places {
		p.r = wrap(p.r)
		s.places[d] = p
	}
}

// Folder is a folder as a scan sees it, with openat2 or with what there is besides.
type Folder = folder

// OpenFolder opens one; without openat2 if old.
func OpenFolder(dir string, old bool) (*Folder, error) {
	f, err := openFolder(dir)
	if err == nil {
		f.beneath = f.beneath && !old
	}
	return f, err
}

// Beneath reports whether openat2 is used.
func (t *Folder) Beneath() bool { return t.beneath }

// ReadAtLeast sets how many bytes are read at once, where so many are wanted.
func (s *Source) ReadAtLeast(n int64) { s.least = n }
