package ntfs

import (
	"encoding/binary"
	"math/bits"
)

// unpack fills dst from what LZNT1 made of it ([MS-XCA] 2.5), and reports whether that was possible. src may have more than
// belongs to it. Where src ends before dst is full the rest is zeros.
func unpack(dst, src []byte) bool {
	const chunk, signature, packed = 4096, 3, 0x8000
	for len(dst) > 0 {
		if len(src) < 2 {
			break
		}
		head := binary.LittleEndian.Uint16(src)
		if head == 0 {
			break
		}
		n := int(head&0xfff) + 1
		if head>>12&7 != signature || n > len(src)-2 {
			return false
		}
		out := dst[:min(chunk, len(dst))]
		k := 0
		if head&packed == 0 {
			if n > len(out) {
				return false
			}
			k = copy(out, src[2:2+n])
		} else if k = unpackChunk(out, src[2:2+n]); k < 0 {
			return false
		}
		clear(out[k:])
		dst, src = dst[len(out):], src[2+n:]
	}
	clear(dst)
	return true
}

// unpackChunk unpacks one chunk and returns how many bytes it has; negative when it is damaged.
func unpackChunk(dst, src []byte) int {
	at := 0
	for k := 0; k < len(src); {
		flags := src[k]
		k++
		if flags == 0 && k+8 <= len(src) && at+8 <= len(dst) { // eight bytes as they are
			copy(dst[at:at+8], src[k:k+8])
			at, k = at+8, k+8
			continue
		}
		for i := 0; i < 8 && k < len(src); i++ {
			if flags&1 == 0 {
				if at == len(dst) {
					return -1
				}
				dst[at] = src[k]
				at, k, flags = at+1, k+1, flags>>1
				continue
			}
			flags >>= 1
			if k+2 > len(src) || at == 0 {
				return -1
			}
			// The further on, the more bits are for how far back it is, and the less for how long.
			pair := uint(src[k]) | uint(src[k+1])<<8
			k += 2
			long := 12 - max(bits.Len(uint(at-1))-4, 0)
			back, n := int(pair>>long)+1, int(pair&(1<<long-1))+3
			if back > at || n > len(dst)-at {
				return -1
			}
			if from := at - back; n <= 16 && at+16 <= len(dst) && back >= 16 {
				// Most are short; what is written behind the end is written again.
				copy(dst[at:at+16], dst[from:from+16])
				at += n
			} else {
				for end := at + n; at < end; { // what is repeated may overlap with itself
					at += copy(dst[at:end], dst[from:at])
				}
			}
		}
	}
	return at
}
