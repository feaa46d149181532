package lzma

import "unsafe"

// prefetch has memory bring what is at both places into the cache, without waiting for it. Go has no word for that.
//
//go:noescape
func prefetch(a, b unsafe.Pointer)
