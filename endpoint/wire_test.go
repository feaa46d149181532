package endpoint_test

import (
	"testing"

	"disksync/endpoint"
	"disksync/image"
)

// TestSmallUpdate: when a byte of a disk has changed, that is nearly all that goes over the line. What does besides is known: the TLS
// handshake, whose certificate is expected, and four requests.
func TestSmallUpdate(t *testing.T) {
	const versions = 10
	content := disk(make([]uint64, 40)...)
	for i := range 40 {
		content[i*block] = byte(i + 1)
	}
	w := ready(t, content)
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	for v := 2; v <= versions; v++ {
		content[v*block+5]++
		w.version("win7", content)
		if v == 5 {
			w.restart() // what is known of the line is known to the next process too
		}
		rc := w.run(endpoint.Request{Kind: endpoint.Update, VM: "win7"})
		t.Logf("version %d: %d bytes over the line", v, rc.Wire)
		if rc.Version != image.Version(v) || rc.Wire > 10<<10 {
			t.Errorf("version %d: %d bytes over the line", rc.Version, rc.Wire)
		}
	}
}
