// Package qmp talks to QEMU over its monitor, and to the guest agent: JSON objects on a unix socket, as QEMU's documents "QEMU Machine
// Protocol Specification" and "QEMU Guest Agent Protocol Reference" have them.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxMessage is the longest message that is read, in bytes. What the guest agent says is written by the guest.
const maxMessage = 1 << 20

// Client is a connection with a monitor or an agent. It is safe for concurrent use; one command goes at a time.
type Client struct {
	mu   sync.Mutex
	conn net.Conn
	r    *bufio.Reader
	id   uint64
	err  error // after it the connection is of no use
}

// Error is what QEMU or the agent answers to a command that fails.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error implements error.
func (e *Error) Error() string { return e.Class + ": " + e.Desc }

type message struct {
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	ID     *uint64         `json:"id"`
	QMP    json.RawMessage `json:"QMP"`
}

// Monitor connects to the monitor that listens on the socket path.
func Monitor(ctx context.Context, path string) (*Client, error) {
	c, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	err = c.within(ctx, func() error {
		m, err := c.read()
		if err == nil && m.QMP == nil {
			err = errors.New("it does not greet as a monitor does")
		}
		return err
	})
	if err == nil {
		err = c.Do(ctx, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("monitor: %w", err)
	}
	return c, nil
}

// Agent connects to the guest agent behind the socket path. It returns when the agent has answered: a guest may have none, so ctx
// should have an end.
func Agent(ctx context.Context, path string) (*Client, error) {
	c, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := c.within(ctx, c.sync); err != nil {
		c.Close()
		return nil, fmt.Errorf("guest agent: %w", err)
	}
	return c, nil
}

// sync skips what is left over from others: the agent sends a byte that is in no JSON, and then our number.
func (c *Client) sync() error {
	var b [4]byte
	rand.Read(b[:])
	n := uint64(binary.BigEndian.Uint32(b[:]))
	if _, err := fmt.Fprintf(c.conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", n); err != nil {
		return err
	}
	for {
		if err := c.skipTo(0xff); err != nil {
			return err
		}
		m, err := c.read()
		if err != nil {
			return err
		}
		if bytes.Equal(bytes.TrimSpace(m.Return), []byte(fmt.Sprint(n))) {
			return nil
		}
	}
}

// skipTo reads up to a byte, however long it takes, in bounded memory.
func (c *Client) skipTo(end byte) error {
	for {
		b, err := c.r.ReadByte()
		if err != nil || b == end {
			return err
		}
	}
}

func dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, r: bufio.NewReaderSize(conn, 4096)}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// within runs do, which the end of ctx interrupts.
func (c *Client) within(ctx context.Context, do func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) }) // what waits is given up
	err := do()
	if _, ok := errors.AsType[*Error](err); err != nil && !ok {
		c.err = err // nobody knows what comes next
	}
	if !stop() && c.err == nil {
		c.err = context.Cause(ctx)
	}
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	return err
}

// Do has a command executed with arguments, which may be nil, and stores what it returns in result, which may be nil too. A command
// that fails gives an *Error.
func (c *Client) Do(ctx context.Context, command string, arguments, result any) error {
	err := c.within(ctx, func() error {
		c.id++
		b, err := json.Marshal(struct {
			Execute   string `json:"execute"`
			Arguments any    `json:"arguments,omitempty"`
			ID        uint64 `json:"id"`
		}{command, arguments, c.id})
		if err != nil {
			return err
		}
		if _, err := c.conn.Write(append(b, '\n')); err != nil {
			return err
		}
		for {
			m, err := c.read()
			switch {
			case err != nil:
				return err
			case m.ID == nil || *m.ID != c.id:
				continue // an event
			case m.Error != nil:
				return m.Error
			case result == nil:
				return nil
			}
			return json.Unmarshal(m.Return, result)
		}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// read reads one message: a line.
func (c *Client) read() (*message, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line)+len(part) > maxMessage {
			return nil, fmt.Errorf("a message of more than %d bytes", maxMessage)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	m := new(message)
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("a message that cannot be read: %w", err)
	}
	return m, nil
}
