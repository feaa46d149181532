// Package disc lays out images of optical discs that systems of every kind read: one set of files with the tables of two file systems,
// UDF 1.02 (ECMA-167 and the OSTA specification of it) and ISO 9660 level 3 with Joliet names. All files are in the root folder, may
// be of any size, and lie one behind the other without gaps in what each of them takes.
//
// [Plan] says where everything goes, from names and sizes alone: the same files give the same tables, so that an image is written
// from its first byte to its last, can be gone on with, and is checked by planning it anew. [Open] reads an image back.
//
// The package is pure: values in, bytes out.
package disc
