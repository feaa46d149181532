package fat

import (
	"strings"
	"unicode/utf8"

	"disksync/volume"
)

// cp437 are the letters from 0x80 on of the code page that short names are read in. No volume says which it was written in; this
// is that of the first systems, and what Linux takes. A name that needs any of these letters and was not written in capitals has
// a long name besides.
const cp437 = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0"

// shortText decodes letters of a short name or a label, without the spaces behind it.
func shortText(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c < 0x80 {
			s.WriteByte(c)
			continue
		}
		at := 0
		for range c - 0x80 {
			_, n := utf8.DecodeRuneInString(cp437[at:])
			at += n
		}
		r, _ := utf8.DecodeRuneInString(cp437[at:])
		s.WriteRune(r)
	}
	return strings.TrimRight(s.String(), " ")
}

// shortBytes returns the 11 bytes of a short name. The first stands for a letter that would mark a deleted entry.
func shortBytes(e []byte) []byte {
	b := [11]byte(e)
	if b[0] == 0x05 {
		b[0] = deleted
	}
	return b[:]
}

// shortName returns the name of an entry that has no other. Two bits say that a part of it was in small letters.
func shortName(e []byte) string {
	const smallBase, smallExtension = 0x08, 0x10
	b := shortBytes(e)
	base, extension := shortText(b[:8]), shortText(b[8:])
	if e[12]&smallBase != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&smallExtension != 0 {
		extension = strings.ToLower(extension)
	}
	if extension == "" {
		return base
	}
	return base + "." + extension
}

// longName collects the entries of a long name, which come before the short one, the last part first ("FAT Long Directory Entries").
type longName struct {
	b    [20 * longBytes]byte
	next int // the number of the entry that has to come now; 0: all are there
	n    int // bytes
	sum  byte
	ok   bool
}

const longBytes = 2 * 13

// take adds an entry.
func (l *longName) take(e []byte) {
	const isLast, number = 0x40, 0x3f
	k := int(e[0] & number)
	switch {
	case k == 0 || k > 20 || e[12] != 0 || e[26]|e[27] != 0:
		l.ok = false
		return
	case e[0]&isLast != 0:
		*l = longName{next: k, n: k * longBytes, sum: e[13], ok: true}
	case !l.ok || k != l.next || e[13] != l.sum:
		l.ok = false
		return
	}
	at := l.b[(k-1)*longBytes:]
	copy(at, e[1:11])
	copy(at[10:], e[14:26])
	copy(at[22:], e[28:32])
	l.next = k - 1
}

// name returns the long name that belongs to a short one, if there is one, and forgets it.
func (l *longName) name(short []byte) (string, bool) {
	ok := l.ok && l.next == 0
	l.ok = false
	if !ok || shortSum(short[:11]) != l.sum {
		return "", false
	}
	b := l.b[:l.n]
	for i := 0; i < len(b); i += 2 {
		if b[i]|b[i+1] == 0 {
			b = b[:i]
			break
		}
	}
	s, ok := volume.UTF16(b)
	return s, ok && volume.ValidName(s)
}

// shortSum is what ties long names to a short one.
func shortSum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}
