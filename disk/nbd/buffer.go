package nbd

import (
	"math/bits"
	"sync"
)

// headroom is the room before a buffer's data for the header of the reply, so that both go out with one system call: a structured
// reply's header and the offset.
const headroom = 20 + 8

// pools has buffers by size: pool i those for 4 KiB << i of data. Buffers are used again by all connections.
var pools [14]sync.Pool

// buffer holds the data of a request, with headroom before it.
type buffer struct {
	b     []byte
	class int
}

// data returns the first n bytes behind the headroom.
func (b *buffer) data(n int) []byte { return b.b[headroom : headroom+n] }

// newBuffer returns a buffer for n bytes, at most maxPayload.
func newBuffer(n int) *buffer {
	class := max(bits.Len(uint(max(n, 1)-1))-12, 0)
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, headroom+4096<<class), class: class}
}

// free gives the buffer back.
func (b *buffer) free() {
	if b != nil {
		pools[b.class].Put(b)
	}
}

// budget bounds the bytes that one connection's requests hold.
type budget struct {
	mu   sync.Mutex
	less *sync.Cond
	held int64
}

// maxInFlight is how many bytes the requests of one connection may hold at a time. One request may hold more when it is alone. More
// would not be faster: the processor's caches are not much larger.
const maxInFlight = 8 << 20

func newBudget() *budget {
	b := &budget{}
	b.less = sync.NewCond(&b.mu)
	return b
}

// take waits until n more bytes may be held.
func (b *budget) take(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.held > 0 && b.held+n > maxInFlight {
		b.less.Wait()
	}
	b.held += n
}

func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
	b.less.Signal()
}
