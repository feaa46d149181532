package diskmap

// run is a piece of a file: n clusters from a place on the volume.
type run struct {
	at int64 // the first cluster; negative: nowhere, the piece is zeros
	n  int64
}

// stream is the content of a file that is in clusters.
type stream struct {
	region
	cluster int64
	base    int64 // of cluster 0, in the region
	runs    []run
	size    int64
}

// readAt fills b from a place in the file; what lies behind its runs is a fault.
func (f *stream) readAt(b []byte, off int64) error {
	for _, r := range f.runs {
		length := r.n * f.cluster
		if off >= length {
			off -= length
			continue
		}
		n := min(length-off, int64(len(b)))
		if r.at < 0 {
			clear(b[:n])
		} else if err := f.read(b[:n], f.base+r.at*f.cluster+off); err != nil {
			return err
		}
		b, off = b[n:], 0
		if len(b) == 0 {
			return nil
		}
	}
	if len(b) > 0 {
		return keep("a file of its own is shorter than it says")
	}
	return nil
}

// maxRuns bounds the pieces of one file, and so the memory for it.
const maxRuns = 1 << 20

// pieceBytes is how much is read at once of what is long.
const pieceBytes = 1 << 20

// each hands n bytes of the file to f, in pieces of pieceBytes but for the last.
func (f *stream) each(n int64, do func(b []byte, off int64) error) error {
	b := make([]byte, min(n, pieceBytes))
	for off := int64(0); off < n; {
		piece := b[:min(n-off, pieceBytes)]
		if err := f.readAt(piece, off); err != nil {
			return err
		}
		if err := do(piece, off); err != nil {
			return err
		}
		off += int64(len(piece))
	}
	return nil
}

// loadMap takes a zone's map from a file that has a set bit for each unit that is used.
func (z *zone) loadMap(f *stream) error {
	return f.each((z.n+7)/8, func(b []byte, off int64) error {
		z.load(b, off*8, min(z.n-off*8, int64(len(b))*8))
		return nil
	})
}

// vanishing are the files in the root folder of Windows volumes whose content means something only to the system that wrote it,
// while it runs.
var vanishing = []string{"pagefile.sys", "hiberfil.sys", "swapfile.sys"}

const hibernation = "hiberfil.sys"

// sleeping tells from the start of a hiberfil.sys whether a system sleeps in it. One that was resumed says "wake", one that was
// never used is zeros; anything else may be needed.
func sleeping(head []byte) error {
	switch string(head) {
	case "\x00\x00\x00\x00", "wake", "WAKE":
		return nil
	}
	return keepDisk("a system sleeps in hiberfil.sys, and will go on with what it remembers of this disk")
}
