// Package publish turns disks into versions: it finds what changed since the newest version, packs that into a layer, uploads
// it and has it sealed.
//
// A disk may be given as a raw image, a VHD of any kind, or a differencing VHD whose parents are beside it or, failing that,
// are a version that was published before. What counts is the content: the layer holds the blocks that differ from the
// newest version, however the input came about.
package publish
