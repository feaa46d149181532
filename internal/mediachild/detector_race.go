//go:build race

package mediachild

// detectorMemory is what the race detector takes beside the program, in bytes.
const detectorMemory = 4 << 30
