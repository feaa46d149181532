package guest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"disksync/internal/testkit"
)

// patience is how long the guest may take to boot or to answer. Without KVM it takes its time.
const patience = testkit.Patience

// Console is the guest's serial console. It is for one goroutine at a time.
type Console struct {
	t     testing.TB
	w     io.Writer
	lines chan string // closed when the console has gone
	log   testkit.Buffer
}

// NewConsole takes over a console, such as a connection with a serial port of QEMU. It reads until rw ends.
func NewConsole(t testing.TB, rw io.ReadWriter) *Console {
	c := &Console{t: t, w: rw, lines: make(chan string, 1<<16)}
	go func() {
		defer close(c.lines)
		r := bufio.NewReader(rw)
		for {
			line, err := r.ReadString('\n')
			_, _ = io.WriteString(&c.log, line)
			if err != nil {
				return
			}
			c.lines <- strings.TrimRight(line, "\r\n")
		}
	}()
	return c
}

// Log returns all that the guest has printed.
func (c *Console) Log() string { return c.log.String() }

// await returns the lines before the first that found accepts.
func (c *Console) await(what string, found func(line string) bool) (before []string, line string) {
	c.t.Helper()
	end := time.After(patience)
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				c.t.Fatalf("the console ended before %s; it said:\n%s", what, c.Log())
			}
			if found(line) {
				return before, line
			}
			before = append(before, line)
		case <-end:
			c.t.Fatalf("did not happen on the console: %s; it said:\n%s", what, c.Log())
		}
	}
}

// Ready waits until the guest takes commands. What the firmware and the loader say comes before it.
func (c *Console) Ready() {
	c.t.Helper()
	c.await("ready", func(line string) bool { return strings.HasSuffix(line, Ready) })
}

// Send gives the guest a command without waiting for its end; [Console.Finish] does.
func (c *Console) Send(command string) {
	c.t.Helper()
	if _, err := io.WriteString(c.w, command+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// Finish waits for the end of a command and returns what it printed. The test fails when the command did.
func (c *Console) Finish() string {
	c.t.Helper()
	lines, last := c.await("the end of a command", func(line string) bool {
		return strings.HasPrefix(line, "=") && strings.HasSuffix(line, "=") && len(line) > 2
	})
	out := strings.TrimSuffix(strings.Join(lines, "\n"), "\n") // an empty line comes before the status
	if status := strings.Trim(last, "="); status != "0" {
		c.t.Fatalf("a command in the guest ended with %s and said:\n%s", status, out)
	}
	return out
}

// Do has the guest's shell run a command and returns what it printed.
func (c *Console) Do(command string) string {
	c.t.Helper()
	c.Send(command)
	return c.Finish()
}

// Settle waits until all commands that were sent before, perhaps over another connection, have ended. What they printed is skipped.
func (c *Console) Settle() {
	c.t.Helper()
	c.Send("echo settled")
	c.await("the end of earlier commands", func(line string) bool { return line == "settled" })
	c.Finish()
}

// WriteFiles has the guest write files with the numbers from first to last into a folder, of size bytes each, and sync each of them.
func (c *Console) WriteFiles(folder string, first, last, size int) {
	c.t.Helper()
	c.Do(writeFiles(folder, first, last, size))
}

// SendWriteFiles is WriteFiles without waiting for the end. It returns when the guest has begun.
func (c *Console) SendWriteFiles(folder string, first, last, size int) {
	c.t.Helper()
	c.Send("echo begun; " + writeFiles(folder, first, last, size))
	c.await("the begin of a command", func(line string) bool { return line == "begun" })
}

func writeFiles(folder string, first, last, size int) string {
	return fmt.Sprintf("write_files %s %d %d %d", folder, first, last, size)
}

// CheckFiles compares the files of a folder with what WriteFiles should have written.
func (c *Console) CheckFiles(folder string, first, last, size int) {
	c.t.Helper()
	got := strings.Split(c.Do("sums "+folder), "\n")
	var want []string
	for i := first; i <= last; i++ {
		content := strings.Repeat(strconv.Itoa(i)+"\n", size)[:size]
		sum := sha256.Sum256([]byte(content))
		want = append(want, hex.EncodeToString(sum[:])+"  "+strconv.Itoa(i))
	}
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(a[66:], b[66:]) })
	if !slices.Equal(got, want) {
		c.t.Errorf("files in %s:\n%s\nwant:\n%s", folder, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Off has the guest end in order. It returns when the console has gone.
func (c *Console) Off() {
	c.t.Helper()
	c.Send("off")
	c.Gone()
}

// Gone waits for the end of the console.
func (c *Console) Gone() {
	c.t.Helper()
	end := time.After(patience)
	for {
		select {
		case _, ok := <-c.lines:
			if !ok {
				return
			}
		case <-end:
			c.t.Fatalf("the guest did not end; it said:\n%s", c.Log())
		}
	}
}
