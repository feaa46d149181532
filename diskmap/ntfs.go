package diskmap

import (
	"encoding/binary"
	"slices"
	"strings"

	"disksync/volume/ntfs/format"
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

func isNTFS(head []byte) bool { return format.IsBoot(head) }

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
	boot, ok := format.ParseBoot(b)
	if !ok {
		return bad
	}
	if boot.Sectors > v.size/boot.Sector {
		return keep("it is larger than the place it is in")
	}
	v.cluster, v.clusters, v.recordSize = boot.Cluster, boot.Clusters, boot.RecordSize
	const known = format.MirrorRecords
	v.mft = v.stream([]run{{boot.MFT, (v.recordSize*known + v.cluster - 1) / v.cluster}}, v.recordSize*known)
	v.mftSize = v.mft.size
	if _, err := v.record(format.MFT); err != nil {
		return err
	}
	return nil
}

func (v *ntfs) stream(runs []run, size int64) *stream {
	return &stream{region: v.region, cluster: v.cluster, runs: runs, size: size}
}

// openMFT finds the runs of the master file table. Its own first record may name more of its records, which are found through
// the runs that are known by then.
func (v *ntfs) openMFT() error {
	rec, err := v.record(format.MFT)
	if err != nil {
		return err
	}
	a, err := rec.attribute(format.AttrData, "")
	if err != nil {
		return err
	}
	if a == nil || a.Resident || a.Flags != 0 || a.Size < format.Own*v.recordSize {
		return keep("its master file table makes no sense")
	}
	v.mft = v.stream(a.runs, a.Size)
	v.mftSize = min(a.Size, a.length()*v.cluster)
	full, err := v.file(rec, format.AttrData, "")
	if err != nil {
		return err
	}
	if full.Size != a.Size || full.length()*v.cluster < a.Size || slices.ContainsFunc(full.runs, func(r run) bool { return r.at < 0 }) {
		return keep("its master file table makes no sense")
	}
	v.mft, v.mftSize = v.stream(full.runs, full.Size), full.Written
	return nil
}

// checkMirror compares the first records with their copies.
func (v *ntfs) checkMirror() error {
	rec, err := v.record(format.Mirror)
	if err != nil {
		return err
	}
	a, err := v.file(rec, format.AttrData, "")
	if err != nil {
		return err
	}
	if a.Resident || a.Size < format.MirrorRecords*v.recordSize {
		return keep("the copy of its master file table makes no sense")
	}
	copies := v.stream(a.runs, a.Size)
	for i := range int64(format.MirrorRecords) {
		one, err := v.record(i)
		if err != nil {
			return err
		}
		b := make([]byte, v.recordSize)
		if err := copies.readAt(b, i*v.recordSize); err != nil {
			return err
		}
		two, err := parseRecord(b, i)
		if err != nil || two == nil || !slices.Equal(one.Content(), two.Content()) {
			return keep("its master file table and the copy of it differ")
		}
	}
	return nil
}

// clean checks the marks of the volume.
func (v *ntfs) clean() error {
	// Dirty, to be resized, upgraded or cleaned up; being checked. Others do not matter.
	const notClean = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | 0x4000
	rec, err := v.record(format.Volume)
	if err != nil {
		return err
	}
	a, err := rec.attribute(format.AttrVolumeInfo, "")
	if err != nil {
		return err
	}
	if a == nil || !a.Resident || len(a.Value) < 12 {
		return keep("it does not say whether it was unmounted cleanly")
	}
	if major := a.Value[8]; major < 1 || major > 3 {
		return keep("it has a version that is not known")
	}
	if binary.LittleEndian.Uint16(a.Value[10:])&notClean != 0 {
		return keep("it is marked as not clean")
	}
	return nil
}

// readMap reads which clusters are used.
func (v *ntfs) readMap() error {
	rec, err := v.record(format.Bitmap)
	if err != nil {
		return err
	}
	a, err := v.file(rec, format.AttrData, "")
	if err != nil {
		return err
	}
	if a.Flags != 0 || a.Written < (v.clusters+7)/8 {
		return keep("the map of its clusters makes no sense")
	}
	if a.Resident {
		v.z.load(a.Value, 0, v.clusters)
		return nil
	}
	return v.z.loadMap(v.stream(a.runs, a.Size))
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
			if rec == nil || !rec.InUse() {
				if first+i < format.Own {
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
				return keep("clusters of file %d are marked free", rec.Number)
			}
		}
		if a.Kind != format.AttrFileName {
			return nil
		}
		if len(a.Value) < 66 || len(a.Value) < 66+2*int(a.Value[64]) {
			return keep("a name of file %d makes no sense", rec.Number)
		}
		parent := int64(binary.LittleEndian.Uint64(a.Value) & (1<<48 - 1))
		name := strings.ToLower(format.UTF16(a.Value[66:][:2*int(a.Value[64])]))
		if parent == format.Root && slices.Contains(vanishing, name) {
			if v.vanishing[rec.Base()] = name; len(v.vanishing) > maxVanishing {
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
		if rec.IsFolder() {
			continue
		}
		a, err := v.file(rec, format.AttrData, "")
		if err != nil {
			return err
		}
		// What is compressed or encrypted cannot be read from its clusters, and could not be read from zeros.
		plain := a.Flags == 0 && !a.Resident
		if name == hibernation {
			head := make([]byte, 4)
			if a.Size < 4096 || !plain {
				return keepDisk("a system may sleep in hiberfil.sys")
			}
			if err := v.stream(a.runs, a.Size).readAt(head, 0); err != nil {
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
