package media

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// maxNames bounds how many names are tried for a file.
const maxNames = 20

// numbered returns the names that a file may get, the proposed one first. The medium may hold things of others, which are never
// touched, whatever they are called.
func numbered(stem, suffix string) []string {
	names := []string{stem + suffix}
	for n := 2; n <= maxNames; n++ {
		names = append(names, fmt.Sprintf("%s-%d%s", stem, n, suffix))
	}
	return names
}

// found is what a name of the medium stands for.
type found int

const (
	absent  found = iota
	ours          // an earlier run made it; it may be replaced
	foreign       // or nobody knows; it stays as it is
)

// look finds out what a name stands for. made reports whether a file is one that an earlier run made.
func (w *writer) look(name string, made func(in durable.File, size int64) bool) found {
	// Asked before it is opened: to open a pipe is to wait for its other end.
	st, err := w.fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return w.lookForLink(name)
	}
	if err != nil || !st.Mode().IsRegular() {
		return foreign
	}
	in, err := w.fsys.Open(name)
	if err != nil {
		return foreign
	}
	defer in.Close()
	if !made(in, st.Size()) {
		return foreign
	}
	return ours
}

// lookForLink tells a name that is not there from a link that leads to nothing, which a new file would take the place of.
func (w *writer) lookForLink(name string) found {
	entries, err := w.fsys.ReadDir(".")
	if err != nil || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
		return foreign
	}
	return absent
}

// madeLayer returns the test for files that are the layer, were meant to be, or were until something damaged them. A file that
// names itself as another layer is one, and stays.
func madeLayer(id image.LayerID) func(durable.File, int64) bool {
	return func(in durable.File, size int64) bool {
		var head [layer.HeaderSize]byte
		if n, _ := in.ReadAt(head[:], 0); !layer.IsHeader(head[:n]) {
			return false
		}
		other, err := layer.ReadID(in, size)
		return err != nil || other == id
	}
}

// unfinished is made for the temporary name, where a file may have been made and nothing written to it.
func unfinished(made func(durable.File, int64) bool) func(durable.File, int64) bool {
	return func(in durable.File, size int64) bool { return size == 0 || made(in, size) }
}
