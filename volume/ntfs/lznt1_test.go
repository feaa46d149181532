package ntfs_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"disksync/volume/ntfs"
)

// TestUnpack: what is packed in all its forms, what ends early, and what is damaged.
func TestUnpack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, src, want string
		size            int
		ok              bool
	}{
		{"nothing", "", "", 5000, true},
		{"end", "0000", "", 5000, true},
		{"as it is", "0330" + "61626364", "abcd", 10, true},
		{"repeated", "03b002" + "610400", "aaaaaaaa", 8, true},
		{"two chunks", "03b00261fc0f" + "023078797a", strings.Repeat("a", 4096) + "xyz", 4099, true},
		{"signature", "0350" + "61626364", "", 10, false},
		{"cut off", "0430" + "61626364", "", 10, false},
		{"too long as it is", "0330" + "61626364", "", 3, false},
		{"too long", "03b002" + "610400", "", 6, false},
		{"too far back", "03b002" + "610110", "", 10, false},
		{"from before the start", "02b001" + "0000", "", 10, false},
		{"half a pair", "02b002" + "6100", "", 10, false},
		{"one too many", "02b000" + "6162", "", 1, false},
	} {
		src, err := hex.DecodeString(c.src)
		if err != nil {
			t.Fatal(err)
		}
		dst := bytes.Repeat([]byte{0xee}, c.size)
		if ok := ntfs.Unpack(dst, src); ok != c.ok {
			t.Errorf("%s: %v", c.name, ok)
		} else if want := append([]byte(c.want), make([]byte, c.size-len(c.want))...); ok && !bytes.Equal(dst, want) {
			t.Errorf("%s: %q", c.name, dst)
		}
	}
}
