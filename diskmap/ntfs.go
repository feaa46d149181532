package diskmap

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Records of the master file table that have a fixed place.
const (
	ntfsMFT     = 0
	ntfsMirror  = 1
	ntfsLog     = 2
	ntfsVolume  = 3
	ntfsRoot    = 5
	ntfsBitmap  = 6
	ntfsOwn     = 12 // those below are the file system's own
	mirrorCount = 4  // records that the mirror has
)

// maxVanishing is more than there can be, though names may differ in capitals only.
const maxVanishing = 8

// ntfs is an NTFS volume.
type ntfs struct {
	region
	cluster    int64
	clusters   int64
	recordSize int64
	mft        *stream
	mftSize    int64
	z          *zone // of clusters
	// vanishing has the records of the files whose content goes.
	vanishing map[int64]string
}

func isNTFS(head []byte) bool { return hasMark(head, 3, "NTFS    ") }

// openNTFS reads the map of an NTFS volume. It has no counts to compare the map with; so every file's clusters are.
func openNTFS(s *scan, r region, _ *Volume) (*zone, error) {
	v := &ntfs{region: r, vanishing: map[int64]string{}}
	if err := v.boot(); err != nil {
		return nil, err
	}
	var err error
	if v.z, err = s.zone(r, 0, v.cluster, v.clusters); err != nil {
		return nil, err
	}
	for _, step := range []func() error{v.openMFT, v.checkMirror, v.clean, v.logFile, v.shadowCopies, v.readMap, v.checkFiles, v.vanish} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return v.z, nil
}

// boot reads the boot sector.
func (v *ntfs) boot() error {
	bad := keep("its boot sector makes no sense")
	if v.size < sector {
		return bad
	}
	b, err := v.bytes(0, sector)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	bytesPerSector, perCluster, total := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint64(b[40:]))
	if perCluster > 0x80 { // a negative power of two
		if perCluster < 256-12 {
			return bad
		}
		perCluster = 1 << (256 - perCluster)
	}
	if !powerOfTwo(bytesPerSector, 512, 4096) || !powerOfTwo(perCluster, 1, 4096) || le.Uint16(b[510:]) != 0xaa55 ||
		!powerOfTwo(bytesPerSector*perCluster, 512, 2<<20) || total <= 0 {
		return bad
	}
	if total > v.size/bytesPerSector {
		return keep("it is larger than the place it is in")
	}
	v.cluster, v.clusters = bytesPerSector*perCluster, total/perCluster
	if size := int64(int8(b[64])); size >= 0 {
		v.recordSize = size * v.cluster
	} else if size >= -16 {
		v.recordSize = 1 << -size
	}
	mft, mirror := int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
	if !powerOfTwo(v.recordSize, 512, 64<<10) || mft <= 0 || mft >= v.clusters || mirror <= 0 || mirror >= v.clusters || mft == mirror {
		return bad
	}
	v.mft = v.stream([]run{{mft, (v.recordSize*mirrorCount + v.cluster - 1) / v.cluster}}, v.recordSize*mirrorCount)
	v.mftSize = v.mft.size
	if _, err := v.record(ntfsMFT); err != nil {
		return err
	}
	return nil
}

func powerOfTwo(n, least, most int64) bool { return n >= least && n <= most && n&(n-1) == 0 }

func (v *ntfs) stream(runs []run, size int64) *stream {
	return &stream{region: v.region, cluster: v.cluster, runs: runs, size: size}
}

// openMFT finds the runs of the master file table. Its own first record may name more of its records, which are found through
// the runs that are known by then.
func (v *ntfs) openMFT() error {
	rec, err := v.record(ntfsMFT)
	if err != nil {
		return err
	}
	a, err := rec.attribute(attrData, "")
	if err != nil {
		return err
	}
	if a == nil || a.resident || a.flags != 0 || a.size < ntfsOwn*v.recordSize {
		return keep("its master file table makes no sense")
	}
	v.mft = v.stream(a.runs, a.size)
	v.mftSize = min(a.size, a.length()*v.cluster)
	full, err := v.file(rec, attrData, "")
	if err != nil {
		return err
	}
	if full.size != a.size || full.length()*v.cluster < a.size || slices.ContainsFunc(full.runs, func(r run) bool { return r.at < 0 }) {
		return keep("its master file table makes no sense")
	}
	v.mft, v.mftSize = v.stream(full.runs, full.size), full.written
	return nil
}

// checkMirror compares the first records with their copies.
func (v *ntfs) checkMirror() error {
	rec, err := v.record(ntfsMirror)
	if err != nil {
		return err
	}
	a, err := v.file(rec, attrData, "")
	if err != nil {
		return err
	}
	if a.resident || a.size < mirrorCount*v.recordSize {
		return keep("the copy of its master file table makes no sense")
	}
	copies := v.stream(a.runs, a.size)
	for i := range int64(mirrorCount) {
		one, err := v.record(i)
		if err != nil {
			return err
		}
		b := make([]byte, v.recordSize)
		if err := copies.readAt(b, i*v.recordSize); err != nil {
			return err
		}
		two, err := parseRecord(b, i)
		if err != nil || two == nil || !slices.Equal(one.content(), two.content()) {
			return keep("its master file table and the copy of it differ")
		}
	}
	return nil
}

// clean checks the marks of the volume.
func (v *ntfs) clean() error {
	// Dirty, to be resized, upgraded or cleaned up; being checked. Others do not matter.
	const notClean = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x4000
	rec, err := v.record(ntfsVolume)
	if err != nil {
		return err
	}
	a, err := rec.attribute(attrVolumeInformation, "")
	if err != nil {
		return err
	}
	if a == nil || !a.resident || len(a.value) < 12 {
		return keep("it does not say whether it was unmounted cleanly")
	}
	if major := a.value[8]; major < 1 || major > 3 {
		return keep("it has a version that is not known")
	}
	if binary.LittleEndian.Uint16(a.value[10:])&notClean != 0 {
		return keep("it is marked as not clean")
	}
	return nil
}

// readMap reads which clusters are used.
func (v *ntfs) readMap() error {
	rec, err := v.record(ntfsBitmap)
	if err != nil {
		return err
	}
	a, err := v.file(rec, attrData, "")
	if err != nil {
		return err
	}
	if a.flags != 0 || a.written < (v.clusters+7)/8 {
		return keep("the map of its clusters makes no sense")
	}
	if a.resident {
		v.z.load(a.value, 0, v.clusters)
		return nil
	}
	return v.z.loadMap(v.stream(a.runs, a.size))
}

// checkFiles goes through all files and checks that none has a cluster that the map calls free.
func (v *ntfs) checkFiles() error {
	perPiece := max(pieceBytes/v.recordSize, 1)
	b := make([]byte, perPiece*v.recordSize)
	for first := int64(0); first < v.mftSize/v.recordSize; first += perPiece {
		piece := b[:min(perPiece, v.mftSize/v.recordSize-first)*v.recordSize]
		if err := v.mft.readAt(piece, first*v.recordSize); err != nil {
			return err
		}
		for i := int64(0); i < int64(len(piece))/v.recordSize; i++ {
			rec, err := parseRecord(piece[i*v.recordSize:][:v.recordSize], first+i)
			if err != nil {
				return err
			}
			if rec == nil || !rec.inUse() {
				if first+i < ntfsOwn {
					return keep("a file of its own is missing")
				}
				continue
			}
			if err := v.checkFile(rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkFile checks the clusters of one record, and remembers the files whose content goes.
func (v *ntfs) checkFile(rec *record) error {
	return rec.each(func(a attribute) error {
		for _, r := range a.runs {
			// Bad clusters are a stream that says nothing of its clusters, as long as the volume.
			if r.at >= 0 && !v.z.holds(r.at, r.at+r.n) {
				return keep("clusters of file %d are marked free", rec.number)
			}
		}
		if a.kind != attrFileName {
			return nil
		}
		if len(a.value) < 66 || len(a.value) < 66+2*int(a.value[64]) {
			return keep("a name of file %d makes no sense", rec.number)
		}
		parent := int64(binary.LittleEndian.Uint64(a.value) & (1<<48 - 1))
		name := strings.ToLower(utf16String(a.value[66:][:2*int(a.value[64])]))
		if parent == ntfsRoot && slices.Contains(vanishing, name) {
			if v.vanishing[rec.base()] = name; len(v.vanishing) > maxVanishing {
				return keep("several files in its root folder are called %s", name)
			}
		}
		return nil
	})
}

// vanish frees the clusters of the files whose content means nothing any more.
func (v *ntfs) vanish() error {
	for number, name := range v.vanishing {
		rec, err := v.record(number)
		if err != nil {
			return err
		}
		if rec.isFolder() {
			continue
		}
		a, err := v.file(rec, attrData, "")
		if err != nil {
			return err
		}
		// What is compressed or encrypted cannot be read from its clusters, and could not be read from zeros.
		plain := a.flags == 0 && !a.resident
		if name == hibernation {
			head := make([]byte, 4)
			if a.size < 4096 || !plain {
				return keepDisk("a system may sleep in hiberfil.sys")
			}
			if err := v.stream(a.runs, a.size).readAt(head, 0); err != nil {
				return err
			}
			if err := sleeping(head); err != nil {
				return err
			}
		}
		only, err := rec.isPlain()
		if err != nil {
			return err
		}
		if !plain || !only {
			continue
		}
		for _, r := range a.runs {
			if r.at >= 0 {
				v.z.set(r.at, r.at+r.n, true)
			}
		}
	}
	return nil
}
