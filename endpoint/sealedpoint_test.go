package endpoint_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/layer"
)

// objects returns the encrypted files of the Synchronizer.
func (w *world) objects() []string {
	w.Helper()
	all, err := filepath.Glob(filepath.Join(w.lab.Dir, "layers", "*.dsl"))
	if err != nil {
		w.Fatal(err)
	}
	return slices.DeleteFunc(all, func(name string) bool {
		b, err := os.ReadFile(name)
		return err != nil || !bytes.HasPrefix(b, []byte("age-encryption.org/v1\n"))
	})
}

// TestTamperedObjects: whatever is done to what the Synchronizer keeps, nothing of it is installed, and both sides say so.
func TestTamperedObjects(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	big := make([]byte, 300<<10) // of several chunks
	rand.NewChaCha8([32]byte{9}).Read(big)
	copy(now[900:], big)
	w.writes("win7", image.System, 900, big)
	w.backUp("win7")
	first := w.objects()
	w.writes("win7", image.System, 900, []byte("something else"))
	copy(now[900:], "something else")
	line := w.backUp("win7").Point.Line
	both := w.objects()
	if len(first) != 1 || len(both) != 2 {
		t.Fatal(both)
	}
	object := first[0]
	second := both[0]
	if second == object {
		second = both[1]
	}
	good, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	third := w.elsewhere()
	if _, err := third.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"a bit in the content", flip(100 << 10), "DS-SERVER-DAMAGED"},
		{"a bit at the end", flip(len(good) - 20), "DS-SERVER-DAMAGED"},
		{"a bit in the key", flip(80), "DS-SERVER-DAMAGED"},
		{"a bit in the seal of the header", flip(bytes.Index(good, []byte("\n---")) + 10), "DS-SERVER-DAMAGED"},
		{"another object", append(bytes.Clone(other), make([]byte, max(len(good)-len(other), 0))...), "DS-SERVER-DAMAGED"},
		{"nothing of it", make([]byte, len(good)), "DS-SERVER-DAMAGED"},
		{"cut short", good[:len(good)-70<<10], "DS-SERVER"},
	} {
		if err := os.WriteFile(object, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, s := third.fail(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
		if !strings.HasPrefix(string(got), c.want) {
			t.Errorf("%s: %s, %v", c.name, got, s.Outcome())
		}
		if vms, err := third.e.VMs(); err != nil || len(vms) != 0 {
			t.Fatalf("%s: %v, %v", c.name, vms, err)
		}
		if i%2 == 0 {
			continue
		}
		if err := w.lab.Admin.VerifyBackup(t.Context(), line); err != nil {
			t.Fatal(err)
		}
		var l api.BackupLine
		testkit.Until(t, "the points are read back", func() bool {
			l, err = w.lab.Admin.Backup(t.Context(), line)
			return err != nil || !l.Verifying
		})
		if err != nil || l.Damaged != 2 {
			t.Errorf("%s: %d points are damaged: %v", c.name, l.Damaged, err)
		}
	}
	// What is damaged is not started from: the next point is whole again.
	w.writes("win7", image.System, 5000, []byte("and more"))
	copy(now[5000:], "and more")
	w.backUp("win7")
	third.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	third.holds("back", now)
	// The good bytes again: all is well.
	if err := os.WriteFile(object, good, 0o600); err != nil {
		t.Fatal(err)
	}
	third.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "two", Point: 2})
}

// TestEncryptedInterrupted: wherever the line fails, and when the process dies too, the same request goes on, with what was encrypted.
func TestEncryptedInterrupted(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	r := rand.New(rand.NewPCG(3, 4))
	broken := 0
	for i := range points() {
		w.scribbles(r, now)
		want := slices.Clone(now)
		var seen atomic.Int64
		at := int64(2 + i)
		reached := make(chan struct{})
		w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
			switch n := seen.Add(1); {
			case n < at:
				next.ServeHTTP(rw, req)
			case n == at:
				if i%2 == 0 {
					next.ServeHTTP(discard{http.Header{}}, req) // the answer is lost
				}
				close(reached)
				fallthrough
			default:
				panic(http.ErrAbortHandler)
			}
		})
		o := w.start(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
		ended := make(chan endpoint.Status, 1)
		go func() { ended <- w.wait(o) }()
		var s endpoint.Status
		select {
		case <-reached:
			o.Stop()
			s = <-ended
		case s = <-ended:
		}
		w.front.honest()
		if s.State != endpoint.Finished {
			broken++
		}
		if i%2 == 1 {
			w.restart()
		}
		w.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7"})
		name := fmt.Sprintf("back%d", i)
		w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: name})
		w.holds(name, want)
		if left, err := filepath.Glob(filepath.Join(w.dir, "spool", "*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	if broken < points()/2 {
		t.Errorf("only %d backups were interrupted", broken)
	}
	lines, err := w.e.Backups(t.Context())
	if err != nil || len(lines) != 1 || len(lines[0].Points) != points() {
		t.Errorf("%+v, %v", lines, err)
	}
}

// interruptedUpload begins an encrypted backup of the VM, and has the service end when it was sent, whether it arrived or not. Afterwards
// the line is good.
func (w *world) interruptedUpload(vm string, arrives bool) {
	w.Helper()
	sent := make(chan struct{})
	once := sync.OnceFunc(func() { close(sent) })
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			if arrives {
				next.ServeHTTP(discard{http.Header{}}, req)
			}
			once()
			panic(http.ErrAbortHandler)
		}
		select {
		case <-sent:
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(rw, req)
		}
	})
	w.start(endpoint.Request{Kind: endpoint.Backup, VM: vm})
	<-sent
	w.restart()
	w.front.honest()
}

// TestEncryptedGoesOn: an upload goes on where it was, in another process too, though to encrypt anew would give other bytes.
func TestEncryptedGoesOn(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	copy(now[900:], "written")
	w.writes("win7", image.System, 900, []byte("written"))
	w.interruptedUpload("win7", true)
	var again atomic.Int64
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			again.Add(1)
		}
		next.ServeHTTP(rw, req)
	})
	w.backUp("win7")
	if again.Load() != 0 || len(w.objects()) != 1 {
		t.Errorf("%d chunks were sent again; %v", again.Load(), w.objects())
	}
	w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	w.holds("back", now)
}

// TestEncryptedSpoolRots: what was encrypted is not sent on when it is not what it was; it is encrypted anew.
func TestEncryptedSpoolRots(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	big := make([]byte, 300<<10) // of several chunks
	rand.NewChaCha8([32]byte{9}).Read(big)
	now := disk(1, 2, 3)
	copy(now[900:], big)
	w.writes("win7", image.System, 900, big)
	w.interruptedUpload("win7", false)
	file := filepath.Join(w.dir, "spool", w.files("spool", ".age")[0])
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1 // among the frames, which are not opened again
	w.write(file, b)
	var sent atomic.Int64
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			sent.Add(req.ContentLength)
		}
		next.ServeHTTP(rw, req)
	})
	w.backUp("win7")
	objects := w.objects()
	if len(objects) != 1 {
		t.Fatal(objects)
	}
	if st, err := os.Stat(objects[0]); err != nil || sent.Load() != st.Size() {
		t.Errorf("%d bytes were sent: %v, %v", sent.Load(), st, err)
	}
	w.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"})
	w.holds("back", now)
}

// TestSpoolIsTidied: what is being encrypted of one VM is not in the way of another's backup, which may go on at the same time. What a
// process that died has left goes with the next one, and what was kept of a VM goes with the VM.
func TestSpoolIsTidied(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "other"})
	w.encrypting()
	begun := w.vm("other").ID.String() + "-system.tmp"
	w.write(filepath.Join(w.dir, "spool", begun), []byte("age-encryption.org/v1\n"))
	w.writes("win7", image.System, 900, []byte("written"))
	w.backUp("win7")
	if got := w.files("spool", ""); !slices.Equal(got, []string{begun}) {
		t.Errorf("after the backup of one VM there is %v", got)
	}
	w.restart()
	if got := w.files("spool", ""); len(got) != 0 {
		t.Errorf("the next process has %v", got)
	}
	w.writes("win7", image.System, 900, []byte("more"))
	w.interruptedUpload("win7", true)
	if got := w.files("spool", ""); len(got) != 2 {
		t.Errorf("of a backup that was interrupted there is %v", got)
	}
	for _, o := range w.e.Operations() {
		if err := o.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.e.Remove("other"); err != nil {
		t.Fatal(err)
	}
	if got := w.files("spool", ""); len(got) != 2 {
		t.Errorf("with another VM went %v", got)
	}
	if err := w.e.Remove("win7"); err != nil {
		t.Fatal(err)
	}
	if got := w.files("spool", ""); len(got) != 0 {
		t.Errorf("of a VM that is not there there is %v", got)
	}
}

// TestEncryptedPointsAreDeleted: whichever points go, the others stay exact, and what none of them needs goes: now and then a layer stands
// alone.
func TestEncryptedPointsAreDeleted(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	past := map[image.Version][]byte{}
	r := rand.New(rand.NewPCG(7, 6))
	var line image.UUID
	most := 0
	for range 3 * points() {
		w.e.LookForRoom(2, 4)
		w.scribbles(r, now)
		rc := w.backUp("win7")
		line = rc.Point.Line
		past[rc.Point.Point] = slices.Clone(now)
		for len(past) > 3 {
			numbers := slices.Sorted(maps.Keys(past))
			gone := numbers[r.IntN(len(numbers)-1)]
			if err := w.lab.Admin.DeletePoint(t.Context(), line, gone); err != nil {
				t.Fatal(err)
			}
			delete(past, gone)
		}
		most = max(most, len(w.objects()))
	}
	if most > 3*5 || most < 3 {
		t.Errorf("three points need %d encrypted layers", most)
	}
	other := w.elsewhere()
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	for n, want := range past {
		name := fmt.Sprintf("back%d", n)
		other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: n, VM: name})
		other.holds(name, want)
	}
	if err := w.lab.Admin.DeleteBackup(t.Context(), line); err != nil {
		t.Fatal(err)
	}
	if left := w.objects(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	w.scribbles(r, now)
	w.backUp("win7")
	other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "last"})
	other.holds("last", now)
}

// TestObjectsAreAgeFiles: the age program makes of an object the layer's file, and only what is wanted of one comes over the line.
func TestObjectsAreAgeFiles(t *testing.T) {
	age := testkit.Tool(t, "age")
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	big := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{9}).Read(big)
	copy(now[900:], big)
	w.writes("win7", image.System, 900, big)
	w.backUp("win7")
	key := filepath.Join(t.TempDir(), "key.txt")
	w.write(key, []byte(w.exported()))
	out, err := exec.Command(age, "-d", "-i", key, w.objects()[0]).Output()
	if err != nil {
		t.Fatal(err)
	}
	x, err := layer.ReadIndex(bytes.NewReader(out), int64(len(out)))
	if err != nil || x.Len() != 2 {
		t.Fatalf("%v, %v", x, err)
	}
	// A change of one byte is in another layer. To look at a few bytes takes a chunk of it, not the layer below.
	var came atomic.Int64
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		next.ServeHTTP(counted{rw, &came}, req)
	})
	other := w.elsewhere()
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	v, err := other.e.OpenDisk(t.Context(), "win7", 1, image.System)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p := make([]byte, 100)
	if _, err := v.ReadAt(p, 2*block+int64(2%64)*4096+70); err != nil || !bytes.Equal(p, now[2*block+2*4096+70:][:100]) {
		t.Errorf("%v", err)
	}
	if n := came.Load(); n > 1<<20 {
		t.Errorf("%d bytes came for a hundred of a block that is not in the big layer", n)
	}
}

// counted counts the bytes of answers.
type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// TestMixedLine: encryption that is turned on later leaves what is there, and encrypts what comes.
func TestMixedLine(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	now := disk(1, 2, 3)
	past := map[image.Version][]byte{}
	r := rand.New(rand.NewPCG(8, 6))
	var line image.UUID
	for i := range 6 {
		if i == 3 {
			w.encrypting()
		}
		w.scribbles(r, now)
		rc := w.backUp("win7")
		line = rc.Point.Line
		past[rc.Point.Point] = slices.Clone(now)
		if i == 3 && rc.Point.Disks[0].Read > 1 {
			t.Errorf("the first that is encrypted: %+v", rc.Point.Disks)
		}
	}
	if n := len(w.objects()); n != 3 {
		t.Errorf("%d encrypted layers", n)
	}
	for _, gone := range []image.Version{2, 4} {
		if err := w.lab.Admin.DeletePoint(t.Context(), line, gone); err != nil {
			t.Fatal(err)
		}
		delete(past, gone)
	}
	other := w.elsewhere()
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	for n, want := range past {
		name := fmt.Sprintf("back%d", n)
		other.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: n, VM: name})
		other.holds(name, want)
	}
	if l, err := w.lab.Admin.Backup(t.Context(), line); err != nil || l.Damaged != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	w.policy(&api.BackupPolicy{Manual: true, Encrypt: true})
	plain := w.elsewhere()
	plain.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "mine"})
	if rc := plain.backUp("mine"); len(rc.Point.Recipients) != 1 {
		t.Errorf("%+v", rc.Point)
	}
}

// TestEncryptedRestoreInterrupted: a restore goes on where it was, however often the line fails in the middle of what is encrypted.
func TestEncryptedRestoreInterrupted(t *testing.T) {
	w := ready(t, disk(1, 2, 3))
	w.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	w.encrypting()
	now := disk(1, 2, 3)
	for i := range 3 {
		big := make([]byte, 700<<10)
		rand.NewChaCha8([32]byte{byte(i)}).Read(big)
		off := int64(i)*block + 512
		copy(now[off:], big)
		w.writes("win7", image.System, off, big)
	}
	rc := w.backUp("win7")
	other := w.elsewhere()
	other.run(endpoint.Request{Kind: endpoint.Download, Image: "win7", VM: "golden"})
	if _, err := other.e.ImportBackupKeys(w.exported()); err != nil {
		t.Fatal(err)
	}
	var came, left atomic.Int64
	w.front.answer(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if !strings.Contains(req.URL.Path, "/v1/layers/") {
			next.ServeHTTP(rw, req)
			return
		}
		next.ServeHTTP(broken{rw, &came, &left}, req)
	})
	interrupted := 0
	for {
		left.Store(900 << 10) // a frame, and some of the next
		s := other.wait(other.start(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: "back"}))
		if s.State == endpoint.Finished {
			break
		}
		if interrupted++; interrupted > 40 {
			t.Fatalf("%d bytes came: %v", came.Load(), s.Outcome())
		}
		if interrupted%2 == 0 {
			other.restart()
		}
	}
	other.holds("back", now)
	if interrupted < 2 || came.Load() > 3*rc.Point.Disks[0].Bytes {
		t.Errorf("%d interruptions, %d bytes came of %d", interrupted, came.Load(), rc.Point.Disks[0].Bytes)
	}
}

// broken is an answer that is cut off when all together have given so many bytes.
type broken struct {
	http.ResponseWriter
	came, left *atomic.Int64
}

func (b broken) Write(p []byte) (int, error) {
	if b.left.Add(-int64(len(p))) < 0 {
		panic(http.ErrAbortHandler)
	}
	b.came.Add(int64(len(p)))
	return b.ResponseWriter.Write(p)
}
