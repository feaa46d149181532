// Package layer reads and writes layer files: the difference between two states of a disk, or a full image.
//
// [Encode] compares a disk with the digests of an earlier state and writes the blocks that changed, in one pass; given that
// state's content it writes of each block what cannot be had from there. [ReadIndex]
// opens a layer file; its [Index] says which blocks it holds, and [Decoder.Block] turns one frame into the block, checked
// against its digest. [Index.Apply] computes the state that a layer leads to, and refuses a layer that does not lead where
// it says. [Reader] reads the disk at the end of a path of layers at random.
//
// The package is pure: bytes in, values out. The format is docs/format-layer.md, section 3; it is stable.
package layer
