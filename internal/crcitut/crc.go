// Package crcitut has the check sum that descriptors of UDF carry.
package crcitut

// table is that of the polynomial x^16+x^12+x^5+1, highest bit first.
var table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i) << 8
		for range 8 {
			if c&0x8000 != 0 {
				c = c<<1 ^ 0x1021
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

// Sum returns the CRC-ITU-T of b as ECMA-167 1/7.2.6 has it: it begins with 0 and is not inverted.
func Sum(b []byte) uint16 {
	c := uint16(0)
	for _, v := range b {
		c = c<<8 ^ table[byte(c>>8)^v]
	}
	return c
}
