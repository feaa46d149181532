package syncclient

import (
	"context"
	"net"
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
