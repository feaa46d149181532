package ntfs

// Unpack is for the test of what no tool makes.
var Unpack = unpack
