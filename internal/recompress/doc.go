// Package recompress takes streams of the deflate format (RFC 1951) apart: into the bytes that they unpack to, and the little that is
// needed besides to make the very same stream of them again. The bytes pack far better than the stream does, and can be found again
// elsewhere.
//
// Most deflate streams were made by zlib or gzip, whose way of choosing matches is the same: chains of places with the same hash, followed
// up to a length that the level sets, and a look at the next byte before a match is taken. Who knows the level and what is unpacked can
// go the same way again. Where a stream takes another turn this is a correction, and a stream with many is left as it is. Where blocks
// end is carried as it is; their Huffman codes are made again from how often each symbol occurs, and carried where they are others.
//
// What is taken apart need not be a whole stream: a Run is any number of its blocks, with up to 32 KiB of what was unpacked before.
package recompress
