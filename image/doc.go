// Package image is the vocabulary of the project: what a disk's content is called and how it is named.
//
// A disk is cut into blocks of [BlockSize]. A [State] is a disk's size and the [Digest] of each block; its [StateID] names
// the whole content. A layer, named by a [LayerID], leads from one State to another. A [Manifest] says which States make up
// one [Version] of an image, and is signed: a [Verified] manifest can only come from [VerifyManifest].
//
// The package holds values and their encodings only. It does no I/O, and imports the standard library only. The encodings
// are described in docs/format-layer.md, sections 1, 2 and 4; they are stable.
package image
