package volume

import (
	"fmt"
	"io/fs"
	"strings"
)

// Walk follows the elements of a path from the root, through lookup, which finds one element in a folder. It checks the path, and
// how deep it goes.
func Walk[T any](op, name string, root T, lookup func(dir T, element string) (T, error)) (T, error) {
	if !fs.ValidPath(name) {
		return root, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return root, nil
	}
	elements := strings.Split(name, "/")
	if len(elements) > MaxDepth {
		return root, &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("%w: deeper than %d folders", ErrLimit, MaxDepth)}
	}
	at := root
	for _, e := range elements {
		next, err := lookup(at, e)
		if err != nil {
			return at, &fs.PathError{Op: op, Path: name, Err: err}
		}
		at = next
	}
	return at, nil
}
