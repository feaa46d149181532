package crcitut_test

import (
	"testing"

	"disksync/internal/crcitut"
)

func TestSum(t *testing.T) {
	// The example of ECMA-167 1/7.2.6, and the check value of CRC-16/XMODEM, which is the same sum.
	for in, want := range map[string]uint16{"\x70\x6a\x77": 0x3299, "123456789": 0x31c3, "": 0} {
		if got := crcitut.Sum([]byte(in)); got != want {
			t.Errorf("sum of % x is %#04x, want %#04x", in, got, want)
		}
	}
}
