package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"disksync/internal/testkit"
)

// killWriter writes with libnbd, eight writes at a time to slots of 4 KiB, and prints what it begins and what is acknowledged. Each sector
// says which slot and which write it belongs to. It ends when the server is gone.
const killWriter = `
import random, struct, sys
random.seed(int(seed))
h.connect_uri(uri)
slots, n, begun, out = h.get_size() // 4096, int(first), {}, sys.stdout
def acked(slot, number):
    def done(err):
        begun.pop(slot)
        if err: raise SystemExit(0)
        out.write("a %d %d\n" % (slot, number)); out.flush()
        return 1
    return done
try:
    while True:
        while len(begun) < 8:
            slot = random.randrange(slots) if random.random() < .7 else random.randrange(40)
            if slot in begun: continue
            n += 1; begun[slot] = n
            out.write("b %d %d\n" % (slot, n)); out.flush()
            data = struct.pack(">QQ", slot, n).ljust(512, b"\x55") * 8
            h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), slot * 4096, acked(slot, n), nbd.CMD_FLAG_FUA if n % 97 == 0 else 0)
        h.poll(-1)
except (nbd.Error, SystemExit):
    pass
`

// killed is a disk whose server is killed, and what must be there.
type killedServer struct {
	t      *testing.T
	dir    string
	socket string
	acked  map[uint64]uint64 // by slot: the last write that was acknowledged
	begun  map[uint64]uint64 // the writes that were under way
	number uint64            // of the last write
}

// TestKilledServe kills a server in the middle of writes, again and again. What was acknowledged is there when it is started anew, and
// the disk is without fault.
func TestKilledServe(t *testing.T) {
	t.Parallel()
	testkit.Tool(t, "nbdsh")
	testkit.Tool(t, "nbdcopy")
	k := &killedServer{t: t, dir: t.TempDir(), acked: map[uint64]uint64{}, begun: map[uint64]uint64{}}
	base, leaf := filepath.Join(k.dir, "base.vhd"), filepath.Join(k.dir, "leaf.vhd")
	k.socket = filepath.Join(k.dir, "s")
	util(t, "create", "-n", base, "-s", strconv.Itoa(crashSize))
	write(t, base, 3, 4)
	util(t, "snapshot", "-n", leaf, "-p", base)
	was := content(t, base)
	rounds, middle := 4*testkit.KillRounds(t, 3), 0
	for range rounds {
		server := testkit.StartProgram(t, exec.Command("vhd-util", "serve", leaf, "--socket", k.socket))
		k.compare(was)
		if k.writeUntilKilled(server, 1+rand.IntN(300)) {
			middle++
		}
		if out := util(t, "check", "-n", leaf); !strings.Contains(out, "is valid") {
			t.Fatalf("after a kill: %s", out)
		}
	}
	if middle < rounds*2/3 {
		t.Errorf("of %d kills only %d were in the middle of writes", rounds, middle)
	}
	server := testkit.StartProgram(t, exec.Command("vhd-util", "serve", leaf, "--socket", k.socket))
	k.compare(was)
	if err := server.Stop(); err != nil {
		t.Errorf("the server ends with %v: %s", err, server.Stderr())
	}
	if _, err := os.Stat(leaf + ".log"); !os.IsNotExist(err) {
		t.Errorf("the log is left: %v", err)
	}
	t.Logf("%d kills, %d in the middle of writes, %d writes", rounds, middle, k.number)
}

// libnbd makes a command of libnbd's tools. nbdsh is a script for the system's own Python, whatever others there are.
func libnbd(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"))
	return cmd
}

// writeUntilKilled has the server killed after so many acknowledged writes. It returns whether writes were under way then.
func (k *killedServer) writeUntilKilled(server *testkit.Program, after int) bool {
	k.t.Helper()
	cmd := libnbd("nbdsh", "-c", "uri, seed, first = '"+k.uri()+"', "+fmt.Sprint(rand.Uint32())+", "+fmt.Sprint(k.number), "-c", killWriter)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for acked := 0; lines.Scan(); {
		var what string
		var slot, n uint64
		if _, err := fmt.Sscan(lines.Text(), &what, &slot, &n); err != nil {
			k.t.Fatalf("%q: %v", lines.Text(), err)
		}
		if k.number = max(k.number, n); what == "b" {
			k.begun[slot] = n
			continue
		}
		k.acked[slot] = n
		delete(k.begun, slot)
		if acked++; acked == after && !server.Kill() {
			k.t.Fatal("the server was not killed")
		}
	}
	if err := cmd.Wait(); err != nil {
		k.t.Fatalf("the writer ends with %v", err)
	}
	select {
	case <-server.Exited():
	default:
		k.t.Fatalf("the writer ended before the server was killed: %s", server.Stderr())
	}
	return len(k.begun) > 0
}

func (k *killedServer) uri() string { return "nbd+unix:///?socket=" + k.socket }

// compare reads the whole disk through the server. What was under way may be there or not, sector by sector.
func (k *killedServer) compare(was []byte) {
	k.t.Helper()
	raw := filepath.Join(k.dir, "raw")
	if out, err := libnbd("nbdcopy", k.uri(), raw).CombinedOutput(); err != nil {
		k.t.Fatalf("nbdcopy: %v: %s", err, out)
	}
	now, err := os.ReadFile(raw)
	if err != nil || len(now) != len(was) {
		k.t.Fatalf("%d bytes, want %d: %v", len(now), len(was), err)
	}
	for at := 0; at < len(now); at += 512 {
		slot := uint64(at / 4096)
		want := was[at : at+512]
		if n := k.acked[slot]; n > 0 {
			want = sectorOf(slot, n)
		}
		got := string(now[at : at+512])
		if n := k.begun[slot]; got != string(want) && (n == 0 || got != string(sectorOf(slot, n))) {
			k.t.Fatalf("sector %d holds %x…, want %x… of write %d (under way was %d)", at/512, got[:20], want[:20], k.acked[slot], n)
		}
		copy(was[at:], got)
	}
	clear(k.acked) // what is there now counts from now on
	clear(k.begun)
}

func sectorOf(slot, n uint64) []byte {
	b := make([]byte, 512)
	for i := range b {
		b[i] = 0x55
	}
	binary.BigEndian.PutUint64(b, slot)
	binary.BigEndian.PutUint64(b[8:], n)
	return b
}
