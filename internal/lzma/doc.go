// Package lzma packs bytes against a dictionary with the LZMA algorithm: matches found anywhere in the dictionary or in what was
// packed before, coded by a range coder whose probabilities adapt to their context.
//
// The output is a raw LZMA1 stream without header and end marker, with lc=3, lp=0 and pb=2, as the LZMA specification of the LZMA
// SDK (7-zip.org) describes it; the dictionary is what liblzma calls a preset one. Neither length is in the stream: both sides
// know them.
//
// It exists beside zstd because of two things that differences of disks need: a raw dictionary that changes with every frame and
// costs nothing to set up, and fewer bytes, for a decoder that is slower. See docs/design.md for the figures.
package lzma
