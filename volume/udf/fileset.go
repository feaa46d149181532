package udf

import (
	"fmt"

	"disksync/volume"
)

// openFileSet reads the file set descriptors (4/14.1), of which a disc that is written once may have several: the newest says where the
// root folder is (UDF 2.3.2).
func (v *reader) openFileSet(b *volume.Budget, at address, bytes uint32) error {
	const most = 256
	_, n := splitLength(bytes)
	p := make([]byte, v.bs)
	found, newest := false, uint32(0)
	for left, hops := max(n/v.bs, 1), 0; left > 0 && hops < most; hops++ {
		if _, err := v.block(b, at, false, p); err != nil {
			if found {
				return nil // never written
			}
			return fmt.Errorf("the file set: %w", err)
		}
		if err := wantTag(p, tagFileSet, at.block); err != nil {
			if found {
				return nil
			}
			if _, err2 := v.block(b, at, true, p); err2 != nil || wantTag(p, tagFileSet, at.block) != nil {
				return fmt.Errorf("the file set: %w", err)
			}
		}
		if number := le.Uint32(p[44:]); !found || number >= newest {
			found, newest = true, number
			v.root = readLongAD(p[400:]).at
		}
		at.block++
		left--
		if next := readLongAD(p[448:]); next.bytes > 0 && left == 0 {
			at, left = next.at, max(next.bytes/v.bs, 1)
		}
	}
	return nil
}
