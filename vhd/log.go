package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"disksync/image"
)

// The log of a leaf that is in use. What a write changes in bitmaps and block table is kept in memory until a sync; a record of it is
// in the log before the write returns. It is not synced: it is there when the process dies and the system lives.
//
//	header, 64 bytes                                     record, 24 bytes
//	 0  8  "vhd log1"                                     0  4  block number
//	 8 16  id of the system's start                       4  4  where the block lies in the file, in sectors
//	24 16  uuid of the leaf                               8  4  first sector that is the leaf's own
//	40  8  size of the disk, in bytes                    12  4  number of such sectors; 0 is a block without content
//	48  8  offset of the block table, in bytes           16  4  number of the record, from 0
//	56  4  epoch                                         20  4  CRC-32C of the epoch and of what stands before
//	60  4  CRC-32C of what stands before
//
// Numbers have the highest byte first. The log ends before the first record whose number or checksum is wrong: one that was torn,
// or one of an earlier epoch. Emptying it is one write to one sector: a header with the next epoch, and no first record.
const (
	logMagic     = "vhd log1"
	logHeaderLen = 64
	recordLen    = 24
	// logCrowded is when a sync is due so that the log can be emptied, in records: 6 MiB.
	logCrowded = 1 << 18
	// maxLogRecords bounds what is read of a log: others write on while that sync runs.
	maxLogRecords = 1 << 22
)

// EmptyLogSize is the largest size of a log, in bytes, that holds nothing: of a Disk that was synced last, if its file can be cut.
const EmptyLogSize = logHeaderLen

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrLogDiffers is returned by [OpenDisk] when the log holds writes that the leaf does not have, and does not fit the leaf: somebody
// changed the one or the other since. Nothing was changed.
var ErrLogDiffers = errors.New("vhd: the log beside the disk holds acknowledged writes, and the disk was changed since")

// WithLog gives a leaf that is opened for writing a log in f, which holds nothing else and may be empty: then what [Disk.WriteAt] and
// [Disk.Discard] returned from is there after the death of the process, too. [OpenDisk] first brings what the log holds to the leaf.
//
// boot is the id of the system's start. What the log says was in the system's memory when it was written, and nobody knows what of that
// reached the disk when the system stopped; so what was logged under another id is dropped, and what was synced counts. f is never
// synced. A disk that is closed properly, after [Disk.Sync], leaves an empty log, which can be removed.
//
// It matters to OpenDisk only. A fixed leaf needs no log and leaves f alone.
func WithLog(f File, boot image.UUID) Option {
	return func(o *options) { o.log, o.boot = f, boot }
}

// writeLog is the log of a Disk, whose mu guards it. Nil is none.
type writeLog struct {
	f       File
	boot    image.UUID
	head    logHeader
	records int64 // in this epoch
	buf     [logHeaderLen + recordLen]byte
}

type logHeader struct {
	boot, leaf  image.UUID
	size, table uint64
	epoch       uint32
}

// record says that sectors of a block are the leaf's own.
type record struct{ block, place, first, count uint32 }

func (h *logHeader) marshal() []byte {
	b := make([]byte, 0, logHeaderLen)
	b = append(b, logMagic...)
	b = append(b, h.boot[:]...)
	b = append(b, h.leaf[:]...)
	b = binary.BigEndian.AppendUint64(b, h.size)
	b = binary.BigEndian.AppendUint64(b, h.table)
	b = binary.BigEndian.AppendUint32(b, h.epoch)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseLogHeader returns the header; ok is false when there is none.
func parseLogHeader(b []byte) (h logHeader, ok bool) {
	if len(b) < logHeaderLen || string(b[:8]) != logMagic || binary.BigEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return logHeader{}, false
	}
	copy(h.boot[:], b[8:])
	copy(h.leaf[:], b[24:])
	h.size, h.table = binary.BigEndian.Uint64(b[40:]), binary.BigEndian.Uint64(b[48:])
	h.epoch = binary.BigEndian.Uint32(b[56:])
	return h, true
}

func (r record) marshal(b []byte, number, epoch uint32) {
	for i, v := range [...]uint32{r.block, r.place, r.first, r.count, number} {
		binary.BigEndian.PutUint32(b[4*i:], v)
	}
	binary.BigEndian.PutUint32(b[20:], recordSum(b, epoch))
}

func recordSum(b []byte, epoch uint32) uint32 {
	var e [4]byte
	binary.BigEndian.PutUint32(e[:], epoch)
	return crc32.Update(crc32.Checksum(e[:], castagnoli), castagnoli, b[:20])
}

// parseRecord returns record number n of the epoch; ok is false when it is not there.
func parseRecord(b []byte, number, epoch uint32) (r record, ok bool) {
	if binary.BigEndian.Uint32(b[16:]) != number || binary.BigEndian.Uint32(b[20:]) != recordSum(b, epoch) {
		return record{}, false
	}
	u := func(i int) uint32 { return binary.BigEndian.Uint32(b[i:]) }
	return record{u(0), u(4), u(8), u(12)}, true
}

// append writes a record. After an error the record is not there, and the next one takes its place.
func (l *writeLog) append(r record) error {
	if l == nil {
		return nil
	}
	b, at := l.buf[:recordLen], logHeaderLen+recordLen*l.records
	if l.records == 0 {
		// With the header: since the log was emptied another Disk may have been opened on these files and given up again.
		b, at = l.buf[:], 0
		copy(b, l.head.marshal())
	}
	r.marshal(b[len(b)-recordLen:], uint32(l.records), l.head.epoch)
	if err := writeAt(l.f, b, at); err != nil {
		return fmt.Errorf("log a write: %w", err)
	}
	l.records++
	return nil
}

// written returns how much was logged since the log was empty.
func (l *writeLog) written() int64 {
	if l == nil {
		return 0
	}
	return l.records
}

func (l *writeLog) crowded() bool { return l != nil && l.records > logCrowded }

// empty makes the log empty.
func (l *writeLog) empty() error {
	if l == nil || l.records == 0 {
		return nil
	}
	l.head.epoch++
	l.records = 0
	// A first record of zeros is none, whatever else the file holds.
	if err := writeAt(l.f, append(l.head.marshal(), make([]byte, recordLen)...), 0); err != nil {
		return fmt.Errorf("empty the log: %w", err)
	}
	if t, can := l.f.(Truncater); can {
		if err := t.Truncate(logHeaderLen); err != nil {
			return fmt.Errorf("empty the log: %w", err)
		}
	}
	return nil
}

// begin makes the log an empty one of the leaf as it is now.
func (l *writeLog) begin(m *Image) error {
	if l == nil {
		return nil
	}
	l.head = logHeader{l.boot, m.UUID(), uint64(m.Size()), m.header.TableOffset, l.head.epoch}
	l.records = 1
	return l.empty()
}

// read returns what the log holds that is to be believed.
func (l *writeLog) read(m *Image) ([]record, error) {
	b := make([]byte, logHeaderLen)
	if n, err := l.f.ReadAt(b, 0); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("read the log: %w", err)
	}
	h, ok := parseLogHeader(b)
	l.head.epoch = h.epoch
	if !ok || h.boot != l.boot {
		return nil, nil
	}
	records, err := l.readRecords(h.epoch)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	if h.leaf != m.UUID() || h.size != uint64(m.Size()) || h.table != m.header.TableOffset {
		return nil, fmt.Errorf("%w: it is of a disk %s of %d bytes; nothing was changed", ErrLogDiffers, h.leaf, h.size)
	}
	return records, nil
}

func (l *writeLog) readRecords(epoch uint32) ([]record, error) {
	var records []record
	b := make([]byte, recordLen<<10)
	for at := int64(logHeaderLen); ; at += int64(len(b)) {
		n, err := l.f.ReadAt(b, at)
		for i := 0; i+recordLen <= n; i += recordLen {
			r, ok := parseRecord(b[i:i+recordLen], uint32(len(records)), epoch)
			if !ok {
				return records, nil
			}
			if len(records) == maxLogRecords {
				return nil, fmt.Errorf("%w: more than %d records; nothing was changed", ErrLogDiffers, maxLogRecords)
			}
			records = append(records, r)
		}
		if n == len(b) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		return records, nil
	}
}

// openLog brings what the log in f holds to the leaf, which nobody uses yet, and begins an empty log.
func (d *Disk) openLog(f File, boot image.UUID) error {
	l := &writeLog{f: f, boot: boot}
	records, err := l.read(d.leaf)
	if err != nil {
		return err
	}
	if err := d.replay(records); err != nil {
		return err
	}
	if len(records) > 0 {
		if err := d.sync(); err != nil {
			return fmt.Errorf("bring the log to the disk: %w", err)
		}
	}
	d.log = l
	return l.begin(d.leaf)
}

// replay applies records in memory. The blocks that they place are checked as those of the table were.
func (d *Disk) replay(records []record) error {
	m := d.leaf
	sectors := uint32(m.blocks.blockSize / sectorSize)
	placed := map[int]bool{}
	for i, r := range records {
		if r.block >= uint32(len(m.bat)) || r.place == unallocated || r.first > sectors || r.count > sectors-r.first {
			return fmt.Errorf("%w: record %d cannot be; nothing was changed", ErrLogDiffers, i)
		}
		switch m.bat[r.block] {
		case unallocated:
			m.bat[r.block] = r.place
			placed[int(r.block)] = true
		case r.place:
		default:
			return fmt.Errorf("%w: block %d is somewhere else; nothing was changed", ErrLogDiffers, r.block)
		}
	}
	if len(placed) > 0 {
		if err := m.checkEntries(false); err != nil {
			return fmt.Errorf("%w: %w; nothing was changed", ErrLogDiffers, err)
		}
	}
	for _, r := range records {
		if err := d.replayRecord(r, placed[int(r.block)]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) replayRecord(r record, placed bool) error {
	block := int(r.block)
	b, err := d.leaf.bitmap(block)
	if err != nil {
		return err
	}
	dirty := d.changed
	if placed {
		dirty = d.fresh
		d.tableDue[d.tableSector(block)] = true
	}
	if dirty[block] == nil {
		dirty[block] = b
		d.leaf.pin(block, b)
	}
	b.set(int64(r.first), int64(r.count))
	return nil
}
