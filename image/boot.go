package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxBoot bounds the blocks of a disk's boot set: 8 GiB of disk.
const MaxBoot = 4096

// BootTrace are the blocks that a VM reads when it starts, in the order in which it does, by the roles of its disks. Its JSON form is an
// object with a list of numbers for each role.
type BootTrace map[Role][]int

// maxBootTrace bounds the JSON form of a BootTrace, in bytes.
const maxBootTrace = 1 << 20

// ReadBootTrace reads the JSON form of a BootTrace.
func ReadBootTrace(r io.Reader) (BootTrace, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBootTrace+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxBootTrace {
		return nil, errors.New("it is too large for a list of blocks")
	}
	var t BootTrace
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, err
	}
	for r, blocks := range t {
		if err := CheckBoot(blocks, MaxDiskSize); err != nil {
			return nil, fmt.Errorf("%s disk: %w", r, err)
		}
	}
	return t, nil
}

// CheckBoot returns an error unless blocks can be the boot set of a disk of size bytes: each is there once.
func CheckBoot(blocks []int, size int64) error {
	if len(blocks) > MaxBoot {
		return fmt.Errorf("%d boot blocks, the most is %d", len(blocks), MaxBoot)
	}
	for _, b := range blocks {
		if b < 0 || b >= BlockCount(size) {
			return fmt.Errorf("boot block %d of %d", b, BlockCount(size))
		}
	}
	sorted := slices.Sorted(slices.Values(blocks))
	if len(slices.Compact(sorted)) != len(blocks) {
		return errors.New("a boot block is there twice")
	}
	return nil
}
