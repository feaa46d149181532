package libvirt

import (
	"net"
	"time"
)

// endHeld is how long the end of a connection is held back at most: by then the library waits for an answer that does not come.
const endHeld = time.Second

// heldEnd is a connection whose end is held back until the library has connected. The library notes that it is connected without a
// lock, while another of its goroutines reads that note as soon as the connection ends: where a daemon answered and ended at once, the
// note could be lost, and leaving would take the library's whole timeout.
type heldEnd struct {
	net.Conn
	connected <-chan struct{}
}

// Read reads as the connection does, an error but late.
func (c heldEnd) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		select {
		case <-c.connected:
		case <-time.After(endHeld):
		}
	}
	return n, err
}
