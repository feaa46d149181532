package endpoint

import (
	"context"
	"io"
	"net"
	"sync"

	"disksync/internal/problem"
)

const (
	// backlog is how much of what a guest has printed last is kept, in bytes.
	backlog = 64 << 10
	// consoleQueue is how many pieces may wait for somebody who watches a console and is slow; who is slower is let go.
	consoleQueue = 1024
)

// console is the serial console of a VM that runs. QEMU is connected with it; people come and go. It is safe for concurrent use.
type console struct {
	mu       sync.Mutex
	came     *sync.Cond // with mu: guest or closed has changed
	guest    net.Conn   // nil: QEMU is not connected at present
	last     []byte
	watchers map[chan []byte]bool
	closed   bool
}

func newConsole() *console {
	c := &console{watchers: map[chan []byte]bool{}}
	c.came = sync.NewCond(&c.mu)
	return c
}

// serve takes what QEMU brings until the listener is closed.
func (c *console) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		c.mu.Lock()
		if c.guest != nil {
			c.guest.Close()
		}
		c.guest = conn
		c.came.Broadcast()
		c.mu.Unlock()
		go c.read(conn)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.came.Broadcast()
	if c.guest != nil {
		c.guest.Close()
	}
	for w := range c.watchers {
		close(w)
	}
	clear(c.watchers)
}

func (c *console) read(conn net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := conn.Read(b)
		if n > 0 {
			c.tell(append([]byte(nil), b[:n]...))
		}
		if err != nil {
			c.lost(conn)
			return
		}
	}
}

// lost forgets a connection that has ended.
func (c *console) lost(conn net.Conn) {
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.guest == conn {
		c.guest = nil
	}
}

// tell keeps what the guest printed and hands it to those who watch.
func (c *console) tell(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = append(c.last, p...)
	if n := len(c.last) - backlog; n > 0 {
		c.last = append(c.last[:0], c.last[n:]...)
	}
	for w := range c.watchers {
		select {
		case w <- p:
		default:
			delete(c.watchers, w)
			close(w)
		}
	}
}

// attach connects rw with the console: first comes what was printed last. It returns when the VM has ended, when rw takes no more, or
// when ctx ends. That rw has nothing more to say does not end it.
func (c *console) attach(ctx context.Context, rw io.ReadWriter) error {
	w := make(chan []byte, consoleQueue)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errGone
	}
	c.watchers[w] = true
	first := append([]byte(nil), c.last...)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, w)
	}()
	go func() { _, _ = io.Copy(consoleInput{c}, rw) }()
	for p, ok := first, true; ok; {
		if _, err := rw.Write(p); err != nil {
			return err
		}
		select {
		case p, ok = <-w:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// consoleInput is what people type.
type consoleInput struct{ c *console }

// Write implements io.Writer. While QEMU is not connected, which it is again soon after a restart of the service, it waits.
func (i consoleInput) Write(p []byte) (int, error) {
	done := 0
	for {
		i.c.mu.Lock()
		for i.c.guest == nil && !i.c.closed {
			i.c.came.Wait()
		}
		conn, closed := i.c.guest, i.c.closed
		i.c.mu.Unlock()
		if closed {
			return done, errGone
		}
		n, err := conn.Write(p[done:])
		if done += n; err == nil {
			return done, nil
		}
		i.c.lost(conn)
	}
}

// Console connects rw with the serial console of a VM that runs, until it ends or ctx does.
func (e *Engine) Console(ctx context.Context, name string, rw io.ReadWriter) error {
	c, err := e.consoleOf(name)
	if err != nil {
		return err
	}
	return c.attach(ctx, rw)
}

// HasConsole returns nil when [Engine.Console] finds a console.
func (e *Engine) HasConsole(name string) error {
	_, err := e.consoleOf(name)
	return err
}

func (e *Engine) consoleOf(name string) (*console, error) {
	vm, err := e.vm(name)
	if err != nil {
		return nil, err
	}
	r := e.runs(vm.ID)
	if r != nil && r.stranded != nil {
		return nil, r.stranded
	}
	if r == nil || r.console == nil {
		return nil, notRunning(vm.Name)
	}
	return r.console, nil
}

func notRunning(name string) error {
	return problem.New("DS-NOT-RUNNING", problem.NotFound, nil, "VM "+name+" does not run", "", "start it with `run "+name+"`")
}
