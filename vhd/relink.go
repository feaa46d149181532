package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"unicode/utf16"
)

// RelinkOptions changes how [Relink] goes about it. The zero value is good.
type RelinkOptions struct {
	// SameContent allows a parent with another uuid than the child names. The caller answers for it that the parent's whole disk
	// has the same content, byte for byte, as the one that the child was made on; nobody can see a mistake later.
	SameContent bool
}

// Relink tells the differencing disk in f, which is size bytes long, of its parent anew: uuid, time, name, and the paths of
// its locators. It serves when a parent was moved or renamed, or was replaced by a disk with the same content. It returns the
// new length of the file. Nothing else may use f meanwhile.
//
// A parent with another uuid is refused unless o says that it has the same content. Locators with a Windows path, absolute or
// relative, or a file URL get the new path; others still named the old place and are removed. A file without any gets all three.
// Texts stay in the room that the file keeps for them, else they move to free room among the metadata, else to the end of the
// file. Whoever made the file, everything else in it stays as it is.
//
// The header has two sectors, which no disk writes at once, and it has no copy. So a new header and new texts are first written
// behind everything else, and one sector, the footer at the end, switches to them; then the old places are written, and the
// footer switches back. Each step is on the disk before the next begins. After a crash at any write the file opens, either as it
// was or with the new parent, perhaps with a warning that [Repair] mends; call Relink again. So f must be able to grow, if only
// for a while; the place at the end stays unused unless f is a [Truncater].
func Relink(f File, size int64, p Parent, o RelinkOptions) (newSize int64, err error) {
	m, pair, raw, err := openFooters(f, size)
	if err != nil {
		return size, err
	}
	texts, err := relinkTexts(m, p, o)
	if err != nil {
		return size, fmt.Errorf("%w; nothing was written", err)
	}
	r := &relink{f: f, m: m, pair: pair, footer: raw, size: size}
	if err := r.run(p, texts); err != nil {
		return r.size, fmt.Errorf("relink: %w; the file has its old or its new parent, relink it again", err)
	}
	return r.size, nil
}

// relinkTexts refuses what must not be done, and returns the new locators' texts, by platform.
func relinkTexts(m *Image, p Parent, o RelinkOptions) (map[Platform][]byte, error) {
	switch {
	case m.Type() != Differencing:
		return nil, fault(BadType, -1, "a %s disk has no parent", m.Type())
	case p.UUID == m.UUID() && !p.UUID.IsZero():
		return nil, fault(Cycle, -1, "%s is the disk itself", p.UUID)
	case p.UUID != m.ParentUUID() && !o.SameContent:
		return nil, fault(WrongParent, -1, "the child wants %s, this is %s", m.ParentUUID(), p.UUID)
	case m.structureEnd() > m.fileSize+m.blocks.blockSize:
		return nil, fault(BadHeader, int64(m.footer.DataOffset), "it keeps %d bytes for its structures, in a file of %d",
			m.structureEnd(), m.fileSize)
	case m.footer.DataOffset%sectorSize != 0:
		return nil, fault(BadHeader, int64(m.footer.DataOffset), "the header is not at the start of a sector")
	case p.Path == "" || path.IsAbs(p.Path) || bytes.ContainsRune([]byte(p.Path), 0):
		return nil, fmt.Errorf("vhd: parent path %q: want a path relative to the child's folder", p.Path)
	case len(utf16.Encode([]rune(path.Base(p.Path)))) > parentNameUnits:
		return nil, fmt.Errorf("vhd: parent path %q: its last element is longer than %d UTF-16 units", p.Path, parentNameUnits)
	}
	windows := encodeUTF16(backslashed(p.Path), binary.LittleEndian, maxLocatorData)
	texts := map[Platform][]byte{W2ru: windows, W2ku: windows, MacX: []byte("file://./" + path.Clean(p.Path))}
	if len(windows) > maxLocatorData/2 {
		return nil, fmt.Errorf("vhd: parent path of %d bytes is too long", len(p.Path))
	}
	return texts, nil
}

type relink struct {
	f      File
	m      *Image
	pair   *footerPair
	footer []byte // as it is now
	size   int64
}

func (r *relink) run(p Parent, texts map[Platform][]byte) error {
	home, err := r.home()
	if err != nil {
		return err
	}
	slots := r.slots()
	final, err := r.header(p, home, slots, texts)
	if err != nil {
		return err
	}
	// Behind the footer, which stays whole until the next one is on the disk.
	at := r.size
	for _, l := range final.Locators {
		if l.used() {
			at = max(at, roundUp(int64(l.Offset)+l.space(), sectorSize))
		}
	}
	at = roundUp(max(at, r.m.structureEnd()), sectorSize)
	temporary := *final
	end := at + headerSize
	for i, l := range temporary.Locators {
		if l.used() {
			temporary.Locators[i].Offset, temporary.Locators[i].Space = uint64(end), uint32(roundUp(int64(l.Length), sectorSize))
			end += roundUp(int64(l.Length), sectorSize)
		}
	}
	if err := r.place(&temporary, at, end, texts); err != nil {
		return err
	}
	if err := r.place(final, home, end, texts); err != nil {
		return err
	}
	return r.cut(final)
}

// place writes a header and its texts to places that nothing refers to, and then makes the footers refer to them. end is where
// the footer at the end of the file goes.
func (r *relink) place(h *Header, at, end int64, texts map[Platform][]byte) error {
	if end > r.pair.endAt {
		// The footer as it was goes to the new end first, so that the file has one there at all times.
		r.pair.endAt = end
		if err := r.pair.write(r.footer); err != nil {
			return err
		}
		r.size = end + FooterSize
	}
	for _, l := range h.Locators {
		if l.used() {
			text := make([]byte, l.span().end-l.span().start)
			copy(text, texts[l.Platform])
			if err := writeAt(r.f, text, int64(l.Offset)); err != nil {
				return err
			}
		}
	}
	if err := writeAt(r.f, h.marshal(), at); err != nil {
		return err
	}
	if err := syncFile(r.f); err != nil {
		return err
	}
	b := bytes.Clone(r.footer)
	binary.BigEndian.PutUint64(b[16:], uint64(at))
	binary.BigEndian.PutUint32(b[footerChecksumAt:], checksum(b, footerChecksumAt))
	r.footer = b
	return r.pair.write(b)
}

// home returns where the header is to be in the end: behind the footer's copy, where some programs look for it without asking, or,
// when that is taken, where it is. A header that a crash left at the end of the file so comes home with the next Relink.
func (r *relink) home() (int64, error) {
	now := int64(r.m.footer.DataOffset)
	if now == FooterSize {
		return now, nil
	}
	front := span{FooterSize, FooterSize + headerSize}
	for _, s := range r.m.used() {
		if s.overlaps(front) {
			return now, nil
		}
	}
	b := make([]byte, headerSize)
	if err := readFull(r.f, b, front.start); err != nil {
		return 0, err
	}
	if string(b[:8]) == headerCookie {
		return front.start, nil
	}
	return now, nil
}

// used returns the ranges of the file that have a meaning, sorted by their start.
func (m *Image) used() []span {
	spans := m.metadata()
	for i, e := range m.bat {
		if e != unallocated {
			spans = append(spans, m.blockSpan(i))
		}
	}
	slices.SortFunc(spans, bySpanStart)
	return spans
}

func bySpanStart(a, b span) int { return cmp.Compare(a.start, b.start) }

// slots returns which locator gets which text.
func (r *relink) slots() (out [locatorCount]Platform) {
	some := false
	for i, l := range r.m.header.Locators {
		switch l.Platform {
		case W2ru, W2ku, MacX:
			out[i], some = l.Platform, true
		}
	}
	if !some {
		copy(out[:], []Platform{W2ru, W2ku, MacX})
	}
	return out
}

// header returns the header as it is to be, with a place for each text: where the locator has it now, if the room suffices.
func (r *relink) header(p Parent, home int64, slots [locatorCount]Platform, texts map[Platform][]byte) (*Header, error) {
	h := *r.m.header
	h.ParentUUID, h.ParentTimestamp, h.ParentName = p.UUID, p.Timestamp, path.Base(p.Path)
	taken := append(r.m.used(), span{home, home + headerSize}, span{0, FooterSize})
	// The places that are being given up are free, but for the header, which must stay whole.
	taken = slices.DeleteFunc(taken, func(s span) bool {
		return slices.ContainsFunc(r.m.header.Locators[:], func(l Locator) bool {
			return l.used() && l.inFile(r.m.fileSize) && s == l.span()
		})
	})
	for i, platform := range slots {
		old := h.Locators[i]
		h.Locators[i] = Locator{}
		if platform == (Platform{}) {
			continue
		}
		n := uint32(len(texts[platform]))
		l := Locator{Platform: platform, Space: old.Space, Length: n, Offset: old.Offset, reserved: old.reserved}
		if !r.fits(l, taken) {
			var err error
			if l, err = r.room(platform, n, taken); err != nil {
				return nil, err
			}
		}
		taken = append(taken, l.span())
		h.Locators[i] = l
	}
	return &h, nil
}

// span returns the whole sectors of the locator's text.
func (l Locator) span() span {
	return span{int64(l.Offset), int64(l.Offset) + roundUp(int64(l.Length), sectorSize)}
}

// fits reports whether the text fits where the locator has its room.
func (r *relink) fits(l Locator, taken []span) bool {
	if l.Offset < FooterSize || l.Offset%sectorSize != 0 || int64(l.Length) > l.space() || !l.inFile(r.m.dataEnd) {
		return false
	}
	return !slices.ContainsFunc(taken, l.span().overlaps)
}

// room finds a place for a text of n bytes: between the structures in front of the first block, where the file has only zeros,
// else behind everything. Programs that know no locators behind the blocks may put blocks there and cost the hint, not the disk.
func (r *relink) room(platform Platform, n uint32, taken []span) (Locator, error) {
	need := roundUp(int64(n), sectorSize)
	l := Locator{Platform: platform, Space: uint32(need), Length: n}
	taken = slices.Clone(taken)
	slices.SortFunc(taken, bySpanStart)
	var end int64
	tries := 0
	for _, s := range taken {
		for at := roundUp(end, sectorSize); at+need <= min(s.start, r.firstBlock()) && tries < maxRoomTries; at += sectorSize {
			tries++
			zero, err := r.zeros(at, need)
			if err != nil {
				return l, err
			}
			if zero {
				l.Offset = uint64(at)
				return l, nil
			}
		}
		end = max(end, s.end)
	}
	l.Offset = uint64(roundUp(max(end, r.m.structureEnd(), r.size), sectorSize))
	return l, nil
}

// maxRoomTries bounds the search for free room, in sectors looked at.
const maxRoomTries = 1024

// firstBlock returns where the first block in the file begins.
func (r *relink) firstBlock() int64 {
	first := uint32(unallocated)
	for _, e := range r.m.bat {
		first = min(first, e)
	}
	if first == unallocated {
		return r.m.dataEnd
	}
	return int64(first) * sectorSize
}

func (r *relink) zeros(at, n int64) (bool, error) {
	b := make([]byte, n)
	if _, err := r.f.ReadAt(b, at); err != nil {
		return false, fmt.Errorf("vhd: read %d bytes at %d: %w", n, at, err)
	}
	return len(bytes.Trim(b, "\x00")) == 0, nil
}

// cut gives the place at the end of the file back, when f can be cut. What was behind the structures before stays there.
func (r *relink) cut(final *Header) error {
	t, can := r.f.(Truncater)
	at := r.m.dataEnd
	for _, l := range final.Locators {
		if l.used() {
			at = max(at, l.span().end)
		}
	}
	if !can || at+FooterSize >= r.size {
		return nil
	}
	r.pair.endAt = at
	if err := r.pair.write(r.footer); err != nil {
		return err
	}
	if err := t.Truncate(at + FooterSize); err != nil {
		return fmt.Errorf("vhd: cut the file: %w", err)
	}
	r.size = at + FooterSize
	return syncFile(r.f)
}
