package syncclient

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"

	"disksync/image"
)

// NewOver is New with connections that dial makes, so that a test can have time stand still.
func NewOver(o Options, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Client {
	return newOver(o, dial)
}

// WithLine returns a Client that shares the connections and has other ideas of when a line is interrupted.
func (c *Client) WithLine(l Line) *Client {
	other := *c
	other.line = l.orDefault()
	return &other
}

// ReadParts reads a body of several ranges.
func ReadParts(kind string, body []byte, ref image.LayerRef, spans []Span) ([]byte, error) {
	p, err := newParts(&http.Response{Header: http.Header{"Content-Type": {kind}}}, bytes.NewReader(body), ref, spans)
	if err != nil {
		return nil, err
	}
	var n int64
	for _, s := range spans {
		n += s.Length
	}
	b := make([]byte, n)
	k, err := io.ReadFull(p, b)
	return b[:k], err
}
