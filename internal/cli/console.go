package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// leaveKey is Ctrl-].
const leaveKey = 0x1d

// Console is this terminal, or what stands in its place, as somebody else's serial console.
type Console struct {
	in      *os.File
	out     io.Writer
	restore func()
	leave   func()
}

// OpenConsole makes standard input and output a console. A terminal hands over each key at once and shows none by itself, until Close;
// Ctrl-] calls leave.
func OpenConsole(leave func()) (*Console, error) {
	c := &Console{in: os.Stdin, out: os.Stdout, restore: func() {}, leave: func() {}}
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		state, err := term.MakeRaw(fd)
		if err != nil {
			return nil, fmt.Errorf("terminal: %w", err)
		}
		c.leave = leave
		c.restore = func() { _ = term.Restore(fd, state) }
		fmt.Fprint(os.Stderr, "Ctrl-] leaves the console\r\n")
	}
	return c, nil
}

// Read implements io.Reader.
func (c *Console) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if i := bytes.IndexByte(p[:n], leaveKey); i >= 0 && term.IsTerminal(int(c.in.Fd())) {
		c.leave()
		return i, io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (c *Console) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close gives the terminal back as it was.
func (c *Console) Close() { c.restore() }
