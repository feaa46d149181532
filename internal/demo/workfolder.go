package main

import (
	"fmt"
	"os"

	"disksync/internal/durable"
	"disksync/internal/progress"
)

// What the work folder takes at most: the disk in three versions, its layers, two sticks, a laptop and an exported disk.
const (
	spaceBytes      = 3 << 30
	spaceOverhead   = 512 << 20
	spacePerContent = 8
)

// makeWorkFolder makes an empty folder for everything that the demonstration writes.
func makeWorkFolder(o options) (string, error) {
	parent := o.dir
	if parent == "" {
		parent = usualParent()
	}
	fsys, err := durable.Dir(parent)
	if err != nil {
		return "", fmt.Errorf("%w; name another folder with --dir", err)
	}
	free, err := fsys.Free()
	if err != nil {
		return "", fmt.Errorf("free space in %s: %w", parent, err)
	}
	if need := o.space(); free < need {
		return "", fmt.Errorf("%s has %s of free space, the demonstration needs %s; name another folder with --dir",
			parent, progress.Bytes(free), progress.Bytes(need))
	}
	return os.MkdirTemp(parent, "disksync-demo-")
}

// usualParent prefers a folder that is on a disk: the other one is often in memory.
func usualParent() string {
	const onDisk = "/var/tmp"
	if info, err := os.Stat(onDisk); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		return onDisk
	}
	return os.TempDir()
}

// space returns how much the demonstration needs.
func (o options) space() int64 {
	if o.maxBytes == 0 {
		return spaceBytes
	}
	return min(spaceBytes, spaceOverhead+spacePerContent*o.maxBytes)
}
