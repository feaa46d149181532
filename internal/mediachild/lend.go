package mediachild

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"disksync/internal/remotedisk"
)

// loan is a disk that is read for a child.
type loan struct {
	remotedisk.Source
	sock     *os.File
	served   sync.WaitGroup
	patience *patience
	failed   atomic.Pointer[error] // why it could not be read in this conversation
}

// ReadAt implements io.ReaderAt. The disk may be slow, as one whose blocks come over a line, without the child's fault.
func (l *loan) ReadAt(p []byte, off int64) (int, error) {
	l.patience.hold(true)
	defer l.patience.hold(false)
	n, err := l.Source.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		l.failed.Store(&err)
	}
	return n, err
}

// explain has an error that a child tells be what the disk said, too, of which the child has the text at best.
func (l *loan) explain(told *remoteError) {
	if err := l.failed.Swap(nil); err != nil {
		told.is = append(told.is, *err)
	}
}

// end waits until the disk is not read any more.
func (l *loan) end() {
	l.sock.Close()
	l.served.Wait()
}

// startOn starts a child that gets a socket on which it may read a disk, and nothing else. first then has to be called.
func startOn(disk remotedisk.Source, command []string) (*child, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	c, err := start(theirs, command)
	theirs.Close() // so that who reads the disk sees the end of the child
	if err != nil {
		ours.Close()
		return nil, err
	}
	c.loan = &loan{Source: disk, sock: ours, patience: &c.patience}
	c.loan.served.Go(func() { _ = remotedisk.Serve(ours, c.loan) }) // what goes wrong is told to the child
	return c, nil
}

// patience is for how long an answer of a child is waited for.
type patience struct {
	sock interface{ SetReadDeadline(t time.Time) error }

	mu   sync.Mutex
	most time.Duration
	held bool // the time stands still
}

// begin begins to wait.
func (p *patience) begin(most time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = most
	return p.set()
}

// hold has the time stand still, or begin anew.
func (p *patience) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	_ = p.set() // who waits sees what is wrong with the socket
}

func (p *patience) set() error {
	if p.held {
		return p.sock.SetReadDeadline(time.Time{})
	}
	return p.sock.SetReadDeadline(time.Now().Add(p.most))
}
