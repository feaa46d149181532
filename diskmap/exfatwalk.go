package diskmap

import (
	"encoding/binary"
	"slices"
	"strings"

	exfatfs "disksync/volume/exfat"
)

const (
	entryBytes = exfatfs.EntryBytes
	// maxFolderBytes bounds the memory for one folder: half a million entries.
	maxFolderBytes = 16 << 20
)

// allocation is what an entry says about clusters.
type allocation struct {
	first, size int64
	inOnePiece  bool // the FAT says nothing about it
}

func parseAllocation(e []byte) allocation {
	le := binary.LittleEndian
	return allocation{int64(le.Uint32(e[20:])), int64(le.Uint64(e[24:])), e[1]&2 != 0}
}

// readMap finds the map in the root folder, and reads it.
func (v *exfat) readMap() error {
	root, err := v.fat.chain(int64(v.Root), maxRootClusters)
	if err != nil {
		return err
	}
	if root.size > maxFolderBytes {
		root.size = maxFolderBytes
	}
	b := make([]byte, root.size)
	if err := root.readAt(b, 0); err != nil {
		return err
	}
	for ; len(b) >= entryBytes && b[0] != exfatfs.TypeEnd; b = b[entryBytes:] {
		if b[0] != exfatfs.TypeBitmap || b[1]&1 != 0 {
			continue
		}
		a := parseAllocation(b)
		a.inOnePiece = false // flags of this entry mean something else
		if a.size != (v.Clusters+7)/8 {
			break
		}
		s, err := v.clustersOf(a)
		if err != nil {
			return err
		}
		return v.z.loadMap(s)
	}
	return keep("the map of its clusters makes no sense")
}

// clustersOf returns the clusters of a file.
func (v *exfat) clustersOf(a allocation) (*stream, error) {
	bad := keep("the clusters of a file make no sense")
	s := &stream{region: v.region, cluster: v.Cluster, base: v.DataAt}
	if a.size < 0 || a.size > v.Clusters*v.Cluster || a.size > 0 && (a.first < firstCluster || a.first >= v.Clusters+firstCluster) {
		return nil, bad
	}
	n := (a.size + v.Cluster - 1) / v.Cluster
	if a.inOnePiece && n > 0 {
		s.runs = []run{{a.first - firstCluster, n}}
		if a.first-firstCluster+n > v.Clusters {
			return nil, bad
		}
	} else {
		for c := a.first; n > 0; n-- {
			if c < firstCluster || c >= v.Clusters+firstCluster {
				return nil, bad
			}
			if !s.add(c - firstCluster) {
				return nil, keep("a file is in more than %d pieces", maxRuns)
			}
			e, err := v.fat.entry(c)
			if err != nil {
				return nil, err
			}
			c = int64(e)
		}
	}
	s.size = a.size
	return s, nil
}

// claim checks that the clusters of a file are marked used, and that no other file has them.
func (v *exfat) claim(s *stream) error {
	for _, r := range s.runs {
		if !v.z.holds(r.at, r.at+r.n) {
			return keep("clusters of a file are marked free")
		}
		if !v.claimed.holds(r.at, r.at+r.n) {
			return keep("two files have the same clusters")
		}
		v.claimed.set(r.at, r.at+r.n, true)
	}
	return nil
}

// walk goes through all folders, and returns the files whose content means nothing any more. Each folder has clusters of its own,
// so it ends.
func (v *exfat) walk() ([]*stream, error) {
	root, err := v.fat.chain(int64(v.Root), maxRootClusters)
	if err != nil {
		return nil, err
	}
	if err := v.claim(root); err != nil {
		return nil, err
	}
	var gone []*stream
	folders := []*stream{root}
	for i := 0; i < len(folders); i++ {
		folder := folders[i]
		folders[i] = nil
		if folder.size > maxFolderBytes {
			return nil, keep("a folder in it is too large")
		}
		b := make([]byte, folder.size)
		if err := folder.readAt(b, 0); err != nil {
			return nil, err
		}
		for len(b) >= entryBytes && b[0] != exfatfs.TypeEnd {
			n, err := v.entrySet(b, i == 0, &folders, &gone)
			if err != nil {
				return nil, err
			}
			b = b[n*entryBytes:]
		}
	}
	return gone, nil
}

// entrySet takes the entry that b begins with, and those that belong to it, and returns how many they are.
func (v *exfat) entrySet(b []byte, inRoot bool, folders, gone *[]*stream) (int, error) {
	switch kind := b[0]; {
	case kind&exfatfs.InUse == 0 || kind == exfatfs.TypeLabel || kind == exfatfs.TypeGUID:
		return 1, nil
	case kind == exfatfs.TypeBitmap || kind == exfatfs.TypeUpcase:
		a := parseAllocation(b)
		a.inOnePiece = false
		s, err := v.clustersOf(a)
		if err != nil {
			return 0, err
		}
		return 1, v.claim(s)
	case kind != exfatfs.TypeFile:
		return 0, keep("it has entries of a kind that is not known")
	}
	n, ok := exfatfs.SetOK(b)
	if !ok {
		return 0, keep("an entry of a folder is damaged")
	}
	const isFolder = 0x10
	name := strings.ToLower(utf16String(exfatfs.SetName(b[:n*entryBytes])))
	for i := 1; i < n; i++ {
		e := b[i*entryBytes:][:entryBytes]
		if e[1]&1 == 0 || e[0] == exfatfs.TypeName { // no clusters can be its own
			continue
		}
		s, err := v.clustersOf(parseAllocation(e))
		if err != nil {
			return 0, err
		}
		if err := v.claim(s); err != nil {
			return 0, err
		}
		switch {
		case i > 1 || len(s.runs) == 0:
		case b[4]&isFolder != 0:
			*folders = append(*folders, s)
		case inRoot && slices.Contains(vanishing, name):
			if err := v.awake(name, s); err != nil {
				return 0, err
			}
			*gone = append(*gone, s)
		}
	}
	return n, nil
}

// awake checks that no system sleeps in a file.
func (v *exfat) awake(name string, s *stream) error {
	if name != hibernation {
		return nil
	}
	head := make([]byte, 4)
	if err := s.readAt(head, 0); err != nil {
		return err
	}
	return sleeping(head)
}
