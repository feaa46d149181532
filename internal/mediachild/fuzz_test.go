package mediachild_test

import (
	"strings"
	"testing"

	"disksync/internal/mediachild"
	"disksync/volume"
)

// FuzzAnswers: whatever a child that was taken over says, its parent neither panics nor believes in more than there may be.
func FuzzAnswers(f *testing.F) {
	volumeOf := "\x01\x00\x01\x00\x03udf\x00\x01L\x00\x00\x00\x00\x00\x00\x08\x00"
	for _, s := range []string{
		"dsmc\x01\x01\x00\x02ab", "dsmc\x02", "\x00\x00" + volumeOf, "\x02\x00\x05\x00\x03bad\x00\x00",
		"dsmc\x01\xff" + strings.Repeat("\x00\x01x", 255), "\x00\xff" + strings.Repeat("\x00\x01x", 255) + volumeOf,
		"\x00\x00\x00\x00\x00", "\x02\x00\x05\x00\x03bad",
		"\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x01b", "\xff\xff\xff\xff", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if missing, err := mediachild.Greet(b); len(missing) > 255 || err != nil && missing != nil {
			t.Errorf("%d are missing, %v", len(missing), err)
		}
		volumes, notes, err := mediachild.Introduce(b)
		if err == nil && volumes == 0 || volumes > 16 || notes > 255 {
			t.Errorf("%d volumes, %d notes, %v", volumes, notes, err)
		}
		const size = 1 << 20
		if m, err := mediachild.MapOf(b, size); (m == nil) == (err == nil) || m != nil && m.Free() > size {
			t.Errorf("%+v, %v", m, err)
		}
		entries, err := mediachild.Entries(b)
		for _, e := range entries {
			if !volume.ValidName(e.Name) || e.Size < 0 {
				t.Errorf("%+v", e)
			}
		}
		if len(entries) > volume.MaxEntries || err != nil && entries != nil {
			t.Errorf("%d entries, %v", len(entries), err)
		}
	})
}
