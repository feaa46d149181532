package diskmap

import (
	"encoding/binary"
	"slices"
	"strings"

	fatfs "disksync/volume/fat"
)

const (
	tablePiece = 4 << 10
	// maxJumps bounds the work for a file whose clusters are all over the volume.
	maxJumps = 1 << 20
	// maxRootClusters bounds the work for a root folder.
	maxRootClusters = 1 << 14
)

// bits returns the length of an entry of the FAT.
func (f *fat) bits() int64 { return f.Kind.EntryBits() }

// entry returns an entry of the FAT. It keeps the piece of the FAT that it read last.
func (f *fat) entry(i int64) (uint32, error) {
	at, width := f.Kind.EntryAt(i)
	if at < f.tableAt || at+width > f.tableAt+int64(len(f.table)) {
		if f.jumps++; f.jumps > maxJumps {
			return 0, keep("its files are in too many pieces")
		}
		f.tableAt = at &^ 3
		f.table = make([]byte, min(tablePiece, f.FATBytes-f.tableAt))
		if err := f.read(f.table, f.FATAt+f.tableAt); err != nil {
			return 0, err
		}
	}
	return f.Kind.Entry(f.table[at-f.tableAt:], i), nil
}

// readMap goes through the FAT: an entry of zero means that a cluster is free.
func (f *fat) readMap() error {
	const step = 2 << 10 // entries; a whole number of bytes in each kind
	b := make([]byte, 0, 4*step)
	end := f.Clusters + firstCluster
	for first := int64(0); first < end; first += step {
		n := min(step, end-first)
		b = b[:(n*f.bits()+7)/8]
		if err := f.read(b, f.FATAt+first*f.bits()/8); err != nil {
			return err
		}
		for i := max(first, firstCluster); i < first+n; i++ {
			e := f.Kind.Entry(b[(i-first)*f.bits()/8:], i)
			switch {
			case e == 0:
				f.z.set(i-firstCluster, i-firstCluster+1, true)
			case e == 1 || int64(e) >= end && !f.Kind.Last(e) && !f.Kind.Bad(e):
				return keep("its FAT makes no sense")
			}
		}
	}
	return nil
}

// count compares how much is free with what the volume says, where it does.
func (f *fat) count() error {
	if f.Kind != fatfs.FAT32 {
		return nil
	}
	le := binary.LittleEndian
	at := int64(le.Uint16(f.raw[48:]))
	if at == 0 || at == 0xffff {
		return nil
	}
	if at*f.Sector >= f.FATAt {
		return keep("its boot sector makes no sense")
	}
	b, err := f.bytes(at*f.Sector, sector)
	if err != nil {
		return err
	}
	if le.Uint32(b) != 0x41615252 || le.Uint32(b[484:]) != 0x61417272 {
		return keep("its count of free clusters is damaged")
	}
	if n, said := f.z.count(0, f.z.n), le.Uint32(b[488:]); said != 0xffffffff && int64(said) != n {
		return keep("%d of its clusters are free, and it says %d", n, said)
	}
	return nil
}

// chain returns the clusters of a file, at most limit of them. A file that goes in circles has more.
func (f *fat) chain(first, limit int64) (*stream, error) {
	s := &stream{region: f.region, cluster: f.Cluster, base: f.DataAt}
	for c, n := first, int64(0); ; n++ {
		at := c - firstCluster
		if n == limit || at < 0 || at >= f.Clusters || f.z != nil && !f.z.holds(at, at+1) {
			return nil, keep("the clusters of a file make no sense")
		}
		if !s.add(at) {
			return nil, keep("a file is in more than %d pieces", maxRuns)
		}
		e, err := f.entry(c)
		if err != nil {
			return nil, err
		}
		if f.Kind.Last(e) {
			return s, nil
		}
		c = int64(e)
	}
}

// add gives a file one more cluster. It is false when the file is in too many pieces.
func (f *stream) add(at int64) bool {
	if i := len(f.runs) - 1; i >= 0 && f.runs[i].at+f.runs[i].n == at {
		f.runs[i].n++
	} else {
		f.runs = append(f.runs, run{at, 1})
	}
	f.size += f.cluster
	return len(f.runs) <= maxRuns
}

// root returns the root folder.
func (f *fat) root() ([]byte, error) {
	if f.Kind != fatfs.FAT32 {
		return f.bytes(f.RootAt, f.RootLen)
	}
	s, err := f.chain(int64(f.Root), maxRootClusters)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(s.size, 65536*32)) // no folder is larger
	return b, s.readAt(b, 0)
}

// vanish frees the clusters of the files whose content means nothing any more.
func (f *fat) vanish() error {
	b, err := f.root()
	if err != nil {
		return err
	}
	var files []*stream
	found := map[string]bool{}
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		const isLabel, isFolder, longName = 0x08, 0x10, 0x0f
		name := strings.ToLower(strings.TrimRight(string(b[:8]), " ") + "." + strings.TrimRight(string(b[8:11]), " "))
		if b[11]&longName == longName || b[11]&(isLabel|isFolder) != 0 || !slices.Contains(vanishing, name) {
			continue
		}
		if found[name] {
			return keep("two files in its root folder are called %s", name)
		}
		found[name] = true
		first, size := int64(binary.LittleEndian.Uint16(b[26:])), int64(binary.LittleEndian.Uint32(b[28:]))
		if f.Kind == fatfs.FAT32 {
			first |= int64(binary.LittleEndian.Uint16(b[20:])) << 16
		}
		if first == 0 {
			continue
		}
		s, err := f.chain(first, f.Clusters)
		if err != nil {
			return err
		}
		if name == hibernation && size > 0 {
			head := make([]byte, 4)
			if err := s.readAt(head, 0); err != nil {
				return err
			}
			if err := sleeping(head); err != nil {
				return err
			}
		}
		files = append(files, s)
	}
	return f.z.vanish(files)
}

// vanish frees the clusters of files, none of which another has.
func (z *zone) vanish(files []*stream) error {
	for _, s := range files {
		for _, r := range s.runs {
			if !z.holds(r.at, r.at+r.n) {
				return keep("two files in its root folder have the same clusters")
			}
			z.set(r.at, r.at+r.n, true)
		}
	}
	return nil
}
