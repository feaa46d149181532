//go:build !amd64

package lzma

import "unsafe"

func prefetch(_, _ unsafe.Pointer) {}
