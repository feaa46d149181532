package libvirt

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// A daemon that ends while it is being talked to gives an error, after whichever of its answers it ends.
func TestDaemonEnds(t *testing.T) {
	t.Parallel()
	for answers, rounds := range []int{2, 2, 100} {
		socket := filepath.Join(t.TempDir(), "sock")
		daemon, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer daemon.Close()
		go func() {
			for {
				conn, err := daemon.Accept()
				if err != nil {
					return
				}
				answer(conn, answers)
				conn.Close()
			}
		}()
		for range rounds {
			resumed, err := Resume(t.Context(), System+"?socket="+socket, [16]byte{1})
			if err == nil || resumed {
				t.Fatalf("after %d answers: resumed %v, %v", answers, resumed, err)
			}
		}
	}
}

// answer answers so many calls as libvirtd does: the list of ways to authenticate, of which it has none, and that it is open. A packet
// is its length, the header's six numbers, the fourth of which says whether it is a call (0) or a reply (1), and a payload.
func answer(conn net.Conn, calls int) {
	for call := range calls {
		var length uint32
		if binary.Read(conn, binary.BigEndian, &length) != nil {
			return
		}
		packet := make([]byte, length-4)
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		packet = packet[:24]
		packet[15] = 1
		if call == 0 {
			packet = append(packet, 0, 0, 0, 1, 0, 0, 0, 0)
		}
		reply := binary.BigEndian.AppendUint32(nil, uint32(len(packet)+4))
		if _, err := conn.Write(append(reply, packet...)); err != nil {
			return
		}
	}
}
