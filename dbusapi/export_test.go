package dbusapi_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
)

// deployed is a rig with a VM win7 that holds the disk.
func deployed(t *testing.T, disk []byte) *rig {
	t.Helper()
	r := newRig(t)
	l := lab.Start(t)
	l.User(t, "alice")
	l.Publish(t, "win7", disk)
	l.Assign(t, "win7", "alice", 0)
	r.logIn(l, l.URL)
	r.await(r.begin(endpoint.Request{Kind: endpoint.Download, Image: "win7"}), "finished")
	return r
}

// content is where an export goes.
type content struct {
	mu sync.Mutex
	b  []byte
}

func (c *content) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if need := int(off) + len(p); need > len(c.b) {
		c.b = append(c.b, make([]byte, need-len(c.b))...)
	}
	return copy(c.b[off:], p), nil
}

// TestExport fetches a disk, and meets what can be in the way.
func TestExport(t *testing.T) {
	disk := lab.Disk(1, 0, 3, 0, 5, 0)
	r := deployed(t, disk)
	c := r.client()
	var out content
	told := int64(0)
	size, err := c.Export(t.Context(), "win7", image.System, &out, func(done int64) { told = done })
	if err != nil || size != int64(len(disk)) {
		t.Fatal(size, err)
	}
	got := append(out.b, make([]byte, len(disk)-len(out.b))...)
	if !bytes.Equal(got, disk) {
		t.Error("the disk is not what was published")
	}
	// What is zero was not sent.
	if told != 3*image.BlockSize {
		t.Errorf("%d bytes were sent", told)
	}

	_, err = c.Export(t.Context(), "none", image.System, &out, func(int64) {})
	wantProblem(t, err, "DS-NO-VM", problem.NotFound)
	_, err = c.Export(t.Context(), "win7", image.User, &out, func(int64) {})
	wantProblem(t, err, "DS-NO-DISK", problem.NotFound)
	_, err = c.Export(t.Context(), "win7", "other", &out, func(int64) {})
	wantProblem(t, err, "DS-USAGE", problem.Usage)

	// A disk that cannot be written where it is to go ends the stream, and the service is there for the next.
	full := errors.New("no room")
	if _, err = c.Export(t.Context(), "win7", image.System, fails{full}, func(int64) {}); !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
	// Damage of the installed disk is told with its code.
	harm(t, r)
	_, err = c.Export(t.Context(), "win7", image.System, &out, func(int64) {})
	wantProblem(t, err, "DS-DISK-DAMAGED", problem.Damaged)
	if p := problem.Of(err); p.Safe == "" || p.Next == "" {
		t.Errorf("the problem is %+v", p)
	}
}

type fails struct{ err error }

func (f fails) WriteAt([]byte, int64) (int, error) { return 0, f.err }

// harm changes a byte in the middle of the golden VHD.
func harm(t *testing.T, r *rig) {
	t.Helper()
	states, err := filepath.Glob(filepath.Join(r.dir, "disks", "*.state"))
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	name := strings.TrimSuffix(states[0], ".state") + ".vhd"
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], st.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], st.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// TestExportIsForTheCaller: another user who comes to the socket first gets nothing and spoils nothing.
func TestExportIsForTheCaller(t *testing.T) {
	t.Parallel()
	testkit.Root(t, "it acts as several users")
	disk := lab.Disk(1, 2)
	r := deployed(t, disk)
	socket := must[string](r, "/", ownFace+".export", "win7", "system")
	for range 3 {
		if got := readAs(t, nobody, socket); len(got) != 0 {
			t.Fatalf("another user got %d bytes", len(got))
		}
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || len(got) < 2*image.BlockSize {
		t.Errorf("the caller got %d bytes: %v", len(got), err)
	}
	// A stream is for one connection.
	if again, err := net.Dial("unix", socket); err == nil {
		again.Close()
		t.Error("the socket is still there")
	}
	if !strings.Contains(r.log.String(), "stream refused") {
		t.Error("the service did not note who came")
	}
}

// readAs reads from a socket as another user.
func readAs(t *testing.T, uid int, socket string) []byte {
	t.Helper()
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result)
	go func() {
		// The user is that of one thread, which ends with this goroutine.
		runtime.LockOSThread()
		b, err := func() ([]byte, error) {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				return nil, errno
			}
			conn, err := net.Dial("unix", socket)
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			return io.ReadAll(conn)
		}()
		done <- result{b, err}
	}()
	res := <-done
	if res.err != nil && !errors.Is(res.err, unix.ECONNRESET) {
		t.Fatal(res.err)
	}
	return res.b
}

// TestExportEndsWithTheService: a caller who does not read keeps the service neither from ending nor from its other work.
func TestExportEndsWithTheService(t *testing.T) {
	t.Parallel()
	r := deployed(t, lab.Disk(1, 2, 3, 4))
	var conns []net.Conn
	for range 5 {
		socket := must[string](r, "/", ownFace+".export", "win7", "system")
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	must[string](r, "/", ownFace+".export", "win7", "system") // nobody comes for this one
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		if b, _ := io.ReadAll(c); len(b) >= 4*image.BlockSize {
			t.Error("the whole disk was sent")
		}
	}
}
