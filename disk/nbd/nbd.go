// Package nbd is the server side of the NBD protocol: it makes disks block devices for QEMU and for all other clients of the protocol.
//
// It follows the public specification, doc/proto.md of the NBD project, whose sections are named in comments here: fixed newstyle
// negotiation, structured replies with holes, block status (base:allocation), all commands of the baseline and beyond it FUA, trim,
// write zeroes with its flags, cache, and several connections at once. There is no TLS: it is for unix sockets, which the file
// system protects.
//
// A client is not trusted: whatever it sends, it gets errors or is disconnected, and each connection takes bounded memory and a
// bounded number of goroutines.
package nbd

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"sync"
)

// Device is a disk that is served. All methods are called concurrently, with ranges that lie within the disk.
type Device interface {
	// Size is the size in bytes. It is asked for when a client connects.
	Size() int64
	// ReadAt fills p or returns an error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p or returns an error. What it wrote outlives the process, not a loss of power.
	WriteAt(p []byte, off int64) (int, error)
	// Flush makes everything durable for which WriteAt or Zero returned before, on whatever connection.
	Flush() error
	// Zero makes a range read as zeros.
	Zero(off, length int64) error
	// Extents yields the runs of a range in order and without gaps. It stops after an error.
	Extents(off, length int64) iter.Seq2[Extent, error]
}

// Extent is a run of a device.
type Extent struct {
	Offset, Length int64 // in bytes
	Hole           bool  // nothing is stored for it
	Zero           bool  // it reads as zeros
}

// ErrShutdown is for a Device to return when it is about to go: the client is told so (NBD_ESHUTDOWN).
var ErrShutdown = errors.New("nbd: the device is being shut down")

// ErrHangUp is for a Device to return when a request is not to be answered: the connection is closed, and a client that connects again
// asks again.
var ErrHangUp = errors.New("nbd: the client is to connect again")

// ErrNoSpace is for a Device to wrap when there was no room for what was written: the client is told so (NBD_ENOSPC), and a guest
// can be paused instead of being given an error.
var ErrNoSpace = errors.New("nbd: no space")

// Options changes how [Serve] works. The zero value is good.
type Options struct {
	// ReadOnly refuses all writes.
	ReadOnly bool
	// MaxConns is how many connections are served at a time; more wait until one ends. 0: 16.
	MaxConns int
	// Report is told of errors of a device, and of clients that were disconnected for what they sent (then op is "client"). It may
	// be called concurrently. nil: nobody is told.
	Report func(export, op string, err error)
}

const defaultMaxConns = 16

// Serve serves exports, by their names, to whoever connects to l, until ctx ends; then it returns nil. A client that names no export
// gets the one called "", or the only one. When ctx ends l is closed, what is under way is finished and answered, and connections are
// closed; clients that reconnect can repeat what was not answered. No device is flushed for that. Serve returns earlier when l fails.
func Serve(ctx context.Context, l net.Listener, exports map[string]Device, o Options) error {
	if o.MaxConns <= 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.Report == nil {
		o.Report = func(string, string, error) {}
	}
	s := &server{exports: exports, o: o}
	for name := range exports {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	free := make(chan struct{}, o.MaxConns)
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			cancel()
			return err
		}
		conns.Go(func() {
			defer func() { <-free }()
			s.serve(ctx, c)
		})
	}
}

// server is what connections share.
type server struct {
	exports map[string]Device
	names   []string // sorted
	o       Options
}

// find returns the export that a client means.
func (s *server) find(name string) (Device, string, bool) {
	if d, ok := s.exports[name]; ok {
		return d, name, true
	}
	if name == "" && len(s.names) == 1 {
		return s.exports[s.names[0]], s.names[0], true
	}
	return nil, "", false
}

// transmissionFlags says what a client may ask for.
func (s *server) transmissionFlags() uint16 {
	// Everything goes to one device, whose Flush covers what all connections wrote: that is what CAN_MULTI_CONN promises.
	f := uint16(flagHasFlags | flagSendFlush | flagSendFUA | flagSendDF | flagCanMultiConn | flagSendCache)
	if s.o.ReadOnly {
		return f | flagReadOnly
	}
	return f | flagSendTrim | flagSendWriteZeroes | flagSendFastZero
}
