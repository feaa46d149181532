// Package hugepage asks the system for huge pages below big tables that are looked up at random places: with small ones most lookups wait
// for the address to be translated as well as for the content.
package hugepage

import "unsafe"

// size is that of a huge page, in bytes. Where it is another, the system rounds.
const size = 2 << 20

// For asks for huge pages below what p points to. The system may do otherwise; nothing but speed depends on it. (Linux: madvise(2),
// MADV_HUGEPAGE; elsewhere it does nothing.)
func For[T any](p *T) { advise(unsafe.Pointer(p), unsafe.Sizeof(*p)) }

// ForBytes is For for the bytes of b.
func ForBytes(b []byte) { advise(unsafe.Pointer(unsafe.SliceData(b)), uintptr(len(b))) }
