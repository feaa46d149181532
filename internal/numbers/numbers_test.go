package numbers_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"disksync/internal/numbers"
)

// TestReader: what is within its limits comes back, in order; what is beyond, or not there, is bad from then on.
func TestReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.IntRange(0, 1<<62)).Draw(t, "values")
		var b []byte
		last := 0
		for _, v := range values {
			b = binary.AppendUvarint(b, uint64(v))
			b = binary.AppendVarint(b, int64(v-last))
			b = append(b, byte(v))
			last = v
		}
		r := numbers.Reader{B: b}
		last = 0
		for _, v := range values {
			if got := r.UpTo(v); got != v {
				t.Fatalf("%d, want %d", got, v)
			}
			if last = r.From(last, v); last != v {
				t.Fatalf("it leads to %d, want %d", last, v)
			}
			if got := r.Bytes(1)[0]; got != byte(v) {
				t.Fatalf("byte %d, want %d", got, byte(v))
			}
		}
		if r.Bad || len(r.B) != 0 {
			t.Fatalf("bad %v, %d bytes are left", r.Bad, len(r.B))
		}
	})
}

func TestReaderBad(t *testing.T) {
	for name, read := range map[string]func(r *numbers.Reader) int{
		"above the limit":          func(r *numbers.Reader) int { return r.UpTo(6) },
		"a limit below zero":       func(r *numbers.Reader) int { return r.UpTo(-1) },
		"before the beginning":     func(r *numbers.Reader) int { return r.From(3, 100) },
		"behind the end":           func(r *numbers.Reader) int { r.B = r.B[1:]; return r.From(5, 7) },
		"bytes that are not there": func(r *numbers.Reader) int { return int(r.Bytes(4)[3]) },
		"half a number":            func(r *numbers.Reader) int { r.B = r.B[2:]; return r.UpTo(1 << 30) },
	} {
		r := numbers.Reader{B: []byte{7, 8, 0x80}}
		if got := read(&r); got != 0 || !r.Bad {
			t.Errorf("%s: %d, bad %v", name, got, r.Bad)
		}
		if r.UpTo(100) != 0 || r.From(0, 100) != 0 || r.Bytes(1)[0] != 0 || !r.Bad {
			t.Errorf("%s: what is behind was read", name)
		}
	}
}
