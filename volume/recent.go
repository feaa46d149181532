package volume

// Recent remembers what was read of folders, so that opening their files one after the other does not read them again. The zero value
// is empty and ready. It is for one goroutine at a time, as a Tree is.
type Recent[K comparable, V any] struct {
	m     map[K]V
	bytes int64
}

// maxRecent is how many bytes are remembered; what comes then begins anew.
const maxRecent = MaxCache / 4

// Get returns what Put has left under k.
func (r *Recent[K, V]) Get(k K) (V, bool) {
	v, ok := r.m[k]
	return v, ok
}

// Put remembers v, which takes about so many bytes, unless that alone is too much.
func (r *Recent[K, V]) Put(k K, v V, bytes int64) {
	if r.m == nil || r.bytes+bytes > maxRecent {
		r.m, r.bytes = map[K]V{}, 0
	}
	if bytes <= maxRecent {
		r.m[k] = v
		r.bytes += bytes
	}
}
