package synchronizer_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"disksync/api"
	"disksync/image"
	"disksync/internal/faultfs"
	"disksync/layer"
	"disksync/synchronizer"
)

func (h *house) begin(t *testing.T, p packed) api.Upload {
	t.Helper()
	return into[api.Upload](t, h.must(t, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil))
}

func (h *house) status(t *testing.T, p packed) api.Upload {
	t.Helper()
	return into[api.Upload](t, h.must(t, "GET", "/v1/uploads/"+p.id(), nil))
}

func (h *house) patch(t *testing.T, p packed, offset int64, body any) answer {
	t.Helper()
	return h.send(t, asLocal, "PATCH", fmt.Sprintf("/v1/uploads/%s?offset=%d", p.id(), offset), body)
}

// fetch returns a stored layer's file.
func (h *house) fetch(t *testing.T, p packed) []byte {
	t.Helper()
	a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil)
	if a.status != http.StatusOK {
		t.Fatalf("layer: %v", a)
	}
	return a.body
}

// torn is a body that ends with an error.
type torn struct{ io.Reader }

func (r torn) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// TestUploadResumes sends a layer in pieces of every kind; after each, the Synchronizer knows exactly what it has.
func TestUploadResumes(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1, 2))
	size := int64(len(p.file))
	if u := h.begin(t, p); u.State != api.Uploading || u.Offset != 0 || u.Length != size || u.Layer != p.Index.ID() {
		t.Errorf("begun as %+v", u)
	}
	at := int64(0)
	r := rand.New(rand.NewPCG(1, 2))
	steps := 0
	for at < size {
		n := min(1+r.Int64N(size/8), size-at)
		if steps == 0 {
			n = 1
		}
		piece := p.file[at : at+n]
		steps++
		// Somebody who does not know where it stands is told.
		for _, wrong := range []int64{at - 1, at + 1, 0, size} {
			if wrong == at || wrong < 0 {
				continue
			}
			a := h.patch(t, p, wrong, "x")
			if a.status != http.StatusConflict || !strings.Contains(string(a.body), fmt.Sprintf(`"offset":%d`, at)) && at > 0 {
				t.Fatalf("at %d in place of %d: %v", wrong, at, a)
			}
		}
		switch steps % 3 {
		case 0: // the line is cut
			if a := h.patch(t, p, at, torn{bytes.NewReader(piece)}); a.code() != api.CodeConflict {
				t.Fatalf("cut body: %v", a)
			}
		case 1: // the Synchronizer is started anew afterwards
			if a := h.patch(t, p, at, piece); a.status != http.StatusOK {
				t.Fatalf("piece: %v", a)
			}
			if at+n < size {
				h.restart(t)
				if u := h.begin(t, p); u.Offset != at+n {
					t.Fatalf("after a restart it stands at %d, want %d", u.Offset, at+n)
				}
			}
		default:
			if a := h.patch(t, p, at, piece); a.status != http.StatusOK {
				t.Fatalf("piece: %v", a)
			}
		}
		at += n
		h.WaitVerified()
		if u := h.status(t, p); u.Offset != at {
			t.Fatalf("stands at %d, want %d", u.Offset, at)
		}
	}
	if steps < 8 {
		t.Errorf("%d steps", steps)
	}
	if u := h.status(t, p); u.State != api.Stored {
		t.Errorf("ended as %+v", u)
	}
	if !bytes.Equal(h.fetch(t, p), p.file) {
		t.Error("stored something else")
	}
	// From here on all of it is done.
	if u := h.begin(t, p); u.State != api.Stored || u.Offset != size {
		t.Errorf("begun again: %+v", u)
	}
	if a := h.patch(t, p, 0, "x"); a.code() != api.CodeNotFound {
		t.Errorf("bytes for a stored layer: %v", a)
	}
	if a := h.send(t, asLocal, "DELETE", "/v1/uploads/"+p.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("a stored layer's upload was deleted: %v", a)
	}
}

func TestUploadRefuses(t *testing.T) {
	h := newHouse(t)
	good := pack(t, image.State{}, disk(1, 2))
	size := int64(len(good.file))
	flip := func(at int64) []byte {
		b := bytes.Clone(good.file)
		b[at] ^= 1
		return b
	}
	other := pack(t, image.State{}, disk(3))
	orphan := pack(t, other.State, disk(4))                           // starts from what is not here
	lie := forge(t, good, func(index []byte) { index[48] ^= 1 })      // To
	swap := forge(t, good, func(index []byte) { index[112+24] ^= 1 }) // the digest of a frame
	codec := forge(t, good, func(index []byte) { index[11] = 2 })     // version 2
	tests := []struct {
		name string
		as   packed
		file []byte
		want api.Code
	}{
		{"leads elsewhere than it says", lie, lie.file, api.CodeDamaged},
		{"promises another block", swap, swap.file, api.CodeDamaged},
		{"of a newer program", codec, codec.file, api.CodeDamaged},
		{"another layer", good, other.file, api.CodeDamaged},
		{"header", good, flip(3), api.CodeDamaged},
		{"first frame", good, flip(layer.HeaderSize + 100), api.CodeDamaged},
		{"last frame", good, flip(good.Index.IndexOffset() - 1), api.CodeDamaged},
		{"index", good, flip(good.Index.IndexOffset() + 90), api.CodeDamaged},
		{"trailer", good, flip(size - 1), api.CodeDamaged},
		{"zeros", good, make([]byte, size), api.CodeDamaged},
		{"cut", good, good.file[:size-1], api.CodeDamaged},
		{"starts from an unknown state", orphan, orphan.file, api.CodeConflict},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := packed{test.as.Result, test.as.name, test.file}
			for range 2 { // a refused upload can be begun anew, from nothing
				u := h.upload(t, p)
				if u.State != api.Failed || u.Error == nil || u.Error.Code != test.want {
					t.Fatalf("ended as %+v, %v", u, u.Error)
				}
				if _, err := os.Stat(h.path(synchronizer.UploadFile(p.name))); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("what was refused is still there: %v", err)
				}
			}
			if a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil); a.code() != api.CodeNotFound {
				t.Errorf("a layer that was refused: %v", a)
			}
		})
	}
	// None of this is in the way of the good layer.
	h.store(t, good)
	if !bytes.Equal(h.fetch(t, good), good.file) {
		t.Error("stored something else")
	}
}

// forge returns a layer with a changed index, whose name and trailer are right for that index.
func forge(t *testing.T, p packed, change func(index []byte)) packed {
	t.Helper()
	b := bytes.Clone(p.file)
	index := b[p.Index.IndexOffset() : int64(len(b))-layer.TrailerSize]
	change(index)
	name := image.LayerID(sha256.Sum256(index))
	copy(b[len(b)-layer.TrailerSize+16:], name[:])
	return packed{p.Result, name, b}
}

func TestUploadSizes(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	size := len(p.file)
	h.begin(t, p)
	if a := h.send(t, asLocal, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), size+1), nil); a.code() != api.CodeConflict {
		t.Errorf("another length: %v", a)
	}
	// More than fits is refused whole, whether the request says how long it is or not.
	long := append(bytes.Clone(p.file), 0)
	if a := h.patch(t, p, 0, long); a.code() != api.CodeTooLarge {
		t.Errorf("too long: %v", a)
	}
	if a := h.patch(t, p, 0, struct{ io.Reader }{bytes.NewReader(long)}); a.code() != api.CodeTooLarge {
		t.Errorf("too long without saying so: %v", a)
	}
	if u := h.status(t, p); u.State != api.Uploading || u.Offset != 0 {
		t.Errorf("stands as %+v", u)
	}
	if a := h.patch(t, p, 0, nil); a.status != http.StatusOK {
		t.Errorf("an empty piece: %v", a)
	}
	if a := h.patch(t, p, -1, "x"); a.code() != api.CodeConflict {
		t.Errorf("before the start: %v", a)
	}
	h.store(t, p)
}

// TestUploadLostFile: somebody tidied up while the Synchronizer was running.
func TestUploadLostFile(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	h.begin(t, p)
	h.patch(t, p, 0, p.file[:1000])
	remove(t, h.path(synchronizer.UploadFile(p.name)))
	if a := h.patch(t, p, 1000, p.file[1000:2000]); a.code() != api.CodeConflict {
		t.Errorf("%v", a)
	}
	if u := h.status(t, p); u.Offset != 0 {
		t.Errorf("stands as %+v", u)
	}
	h.store(t, p)
}

func TestUploadDeleted(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	h.begin(t, p)
	h.patch(t, p, 0, p.file[:1000])
	h.must(t, "DELETE", "/v1/uploads/"+p.id(), nil)
	if a := h.send(t, asLocal, "GET", "/v1/uploads/"+p.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("deleted upload: %v", a)
	}
	if u := h.begin(t, p); u.Offset != 0 {
		t.Errorf("begun again at %d", u.Offset)
	}
}

// TestUploadTogether has several senders of one layer: one at a time gets through, the others are told, nothing is mixed up.
func TestUploadTogether(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	h.begin(t, p)

	// One is in the middle of its piece while another comes.
	r, w := io.Pipe()
	done := make(chan answer)
	go func() { done <- h.patch(t, p, 0, r) }()
	if _, err := w.Write(p.file[:1000]); err != nil {
		t.Fatal(err)
	}
	if a := h.patch(t, p, 0, p.file); a.code() != api.CodeConflict {
		t.Errorf("a second sender: %v", a)
	}
	if a := h.send(t, asLocal, "DELETE", "/v1/uploads/"+p.id(), nil); a.code() != api.CodeConflict {
		t.Errorf("deletion meanwhile: %v", a)
	}
	w.Close()
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("the first sender: %v", a)
	}

	const piece = 100_000
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for range 10_000 {
				a := h.send(t, asLocal, "GET", "/v1/uploads/"+p.id(), nil)
				u := into[api.Upload](t, a)
				if u.State != api.Uploading {
					return
				}
				h.patch(t, p, u.Offset, p.file[u.Offset:min(u.Offset+piece, int64(len(p.file)))])
			}
		})
	}
	senders.Wait()
	h.WaitVerified()
	if u := h.status(t, p); u.State != api.Stored || !bytes.Equal(h.fetch(t, p), p.file) {
		t.Errorf("ended as %+v", u)
	}
}

// TestUploadCrashBeforeEntry: the power went when the file had its name and the catalog did not know it yet.
func TestUploadCrashBeforeEntry(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	h.store(t, p)
	if err := h.Exec(t.Context(), "DELETE FROM layers"); err != nil {
		t.Fatal(err)
	}
	h.restart(t)
	if a := h.send(t, asLocal, "GET", "/v1/layers/"+p.id(), nil); a.code() != api.CodeNotFound {
		t.Errorf("a layer that was not entered: %v", a)
	}
	if u := h.begin(t, p); u.State != api.Verifying || u.Offset != u.Length {
		t.Errorf("begun again: %+v", u)
	}
	h.WaitVerified()
	if u := h.status(t, p); u.State != api.Stored || !bytes.Equal(h.fetch(t, p), p.file) {
		t.Errorf("ended as %+v", u)
	}
}

// TestUploadTooLongPart: what a crash left behind is longer than the layer, so it is another one.
func TestUploadTooLongPart(t *testing.T) {
	h := newHouse(t)
	p := pack(t, image.State{}, disk(1))
	write(t, h.path(synchronizer.UploadFile(p.name)), append(bytes.Clone(p.file), 1))
	if u := h.begin(t, p); u.Offset != 0 {
		t.Errorf("begun at %d", u.Offset)
	}
	h.store(t, p)
}

// TestStoredIsNeverTakenAway begins uploads over and over while their layer is being stored: none of them may mistake it for
// something that a crash left behind.
func TestStoredIsNeverTakenAway(t *testing.T) {
	h := newHouse(t)
	for i := range 10 {
		p := pack(t, image.State{}, disk(uint64(i)+1))
		h.begin(t, p)
		var senders sync.WaitGroup
		stop := make(chan bool)
		for range 2 {
			senders.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						h.send(t, asLocal, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil)
						h.send(t, asLocal, "POST", fmt.Sprintf("/v1/uploads/%s?length=1", p.id()), nil)
					}
				}
			})
		}
		h.patch(t, p, 0, p.file)
		for n := 0; h.status(t, p).State != api.Stored; n++ {
			if u := h.status(t, p); u.State == api.Failed || n > 10_000 {
				t.Fatalf("stands as %+v, %v", u, u.Error)
			}
		}
		close(stop)
		senders.Wait()
		if _, err := os.Stat(h.path(synchronizer.LayerFile(p.id()))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUploadNoSpace: the disk is full at some write. What was there stays, and there is no error but that one.
func TestUploadNoSpace(t *testing.T) {
	p := pack(t, image.State{}, disk(1))
	fsys := faultfs.New()
	h := houseOn(t, fsys)
	h.begin(t, p)
	if a := h.patch(t, p, 0, p.file[:1000]); a.status != http.StatusOK {
		t.Fatal(a)
	}
	fsys.Arm(2, faultfs.NoSpace)
	if a := h.patch(t, p, 1000, p.file[1000:]); a.code() != api.CodeNoSpace {
		t.Errorf("%v", a)
	}
	if !fsys.Fired() {
		t.Error("the disk never was full")
	}
	if u := h.status(t, p); u.State != api.Uploading || u.Offset != 1000 {
		t.Errorf("stands as %+v", u)
	}
	fsys.Arm(0, faultfs.None)
	h.store(t, p)

	huge := fmt.Sprintf("/v1/uploads/%s?length=%d", strings.Repeat("ab", 32), int64(1)<<40+1)
	if a := h.send(t, asLocal, "POST", huge, nil); a.code() != api.CodeNoSpace {
		t.Errorf("an upload that cannot fit: %v", a)
	}
}

// TestUploadKeepsWhatItConfirmed: what a sender was told has arrived survives the loss of power.
func TestUploadKeepsWhatItConfirmed(t *testing.T) {
	p := pack(t, image.State{}, disk(1))
	fsys := faultfs.New()
	h := houseOn(t, fsys)
	h.begin(t, p)
	for _, at := range []int64{0, 1000, 2000} {
		if u := into[api.Upload](t, h.patch(t, p, at, p.file[at:at+1000])); u.Offset != at+1000 {
			t.Fatalf("stands at %d", u.Offset)
		}
		fsys = fsys.Restart(0, rand.New(rand.NewPCG(1, 1)))
		if err := h.Reboot(fsys); err != nil {
			t.Fatal(err)
		}
		if u := h.begin(t, p); u.Offset != at+1000 {
			t.Fatalf("after the loss of power it stands at %d", u.Offset)
		}
	}
	h.store(t, p)
	if bad := fsys.UnsafeRenames(); len(bad) > 0 {
		t.Errorf("named before synced: %v", bad)
	}
}

// TestUploadOfDeadProcess: a process that was killed left all of the bytes, but had not synced them.
func TestUploadOfDeadProcess(t *testing.T) {
	p := pack(t, image.State{}, disk(1))
	fsys := faultfs.New()
	h := houseOn(t, fsys)
	f, err := fsys.Create(synchronizer.UploadFile(p.name), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(p.file, 0); err != nil {
		t.Fatal(err)
	}
	h.begin(t, p)
	h.WaitVerified()
	if u := h.status(t, p); u.State != api.Stored {
		t.Fatalf("ended as %+v", u)
	}
	if err := h.Reboot(fsys.Restart(0, rand.New(rand.NewPCG(1, 1)))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(h.fetch(t, p), p.file) {
		t.Error("the catalog knows a layer that is not there")
	}
}

// houseOn is newHouse with layers and states in fsys.
func houseOn(t *testing.T, fsys *faultfs.FS) *house {
	t.Helper()
	h := &house{dir: t.TempDir(), clock: &clock{}}
	h.openOn(t, fsys)
	t.Cleanup(func() { h.close(t) })
	return h
}

// openOn is open with layers and states in fsys.
func (h *house) openOn(t *testing.T, fsys *faultfs.FS) {
	t.Helper()
	s, err := synchronizer.OpenOn(t.Context(), synchronizer.Options{Dir: h.dir, Now: h.clock.now}, fsys)
	if err != nil {
		t.Fatal(err)
	}
	s.CheapPasswords()
	h.Server = s
}

// forget has the Synchronizer know no layer, and fsys has none.
func (h *house) forget(t *testing.T, fsys *faultfs.FS) {
	t.Helper()
	if err := h.Reboot(fsys); err != nil {
		t.Fatal(err)
	}
	if err := h.Exec(t.Context(), "DELETE FROM layers"); err != nil {
		t.Fatal(err)
	}
}

// TestUploadFaults fails and cuts the power at every step of an upload. Whatever the catalog then knows is there and good, and
// the upload can be brought to its end.
func TestUploadFaults(t *testing.T) {
	p := pack(t, image.State{}, disk(0, 5)[:image.BlockSize+4096])
	half := len(p.file) / 2
	// run is the upload as a client does it, which stops where it gets an error.
	run := func(t *testing.T, h *house) {
		a := h.send(t, asLocal, "POST", fmt.Sprintf("/v1/uploads/%s?length=%d", p.id(), len(p.file)), nil)
		for _, piece := range [][]byte{p.file[:half], p.file[half:]} {
			if a.status != http.StatusOK {
				break
			}
			a = h.patch(t, p, into[api.Upload](t, a).Offset, piece)
		}
		h.WaitVerified()
	}
	count := faultfs.New()
	h := houseOn(t, count)
	count.Arm(0, faultfs.None)
	run(t, h)
	steps := count.Steps()
	if u := h.status(t, p); u.State != api.Stored || steps < 10 {
		t.Fatalf("%d steps, ended as %+v", steps, u)
	}
	if bad := count.UnsafeRenames(); len(bad) > 0 {
		t.Errorf("named before synced: %v", bad)
	}
	for step := 1; step <= steps; step++ {
		for i, fault := range []faultfs.Fault{faultfs.FailBefore, faultfs.FailAfter, faultfs.NoSpace, faultfs.PowerLoss} {
			fsys := faultfs.New()
			h.forget(t, fsys)
			fsys.Arm(step, fault)
			run(t, h)
			if !fsys.Fired() {
				t.Fatalf("step %d was not reached", step)
			}
			keep := []float64{0, 0.5, 1}[(step+i)%3]
			if err := h.Reboot(fsys.Restart(keep, rand.New(rand.NewPCG(uint64(step), uint64(i))))); err != nil {
				t.Fatal(err)
			}
			known := h.send(t, asLocal, "GET", "/v1/uploads/"+p.id(), nil)
			if known.status == http.StatusOK && !bytes.Equal(h.fetch(t, p), p.file) {
				t.Errorf("step %d, fault %d: the catalog knows a layer that is not there", step, fault)
			}
			// What is left may be damaged; then the second attempt begins from nothing.
			u := h.upload(t, p)
			if u.State == api.Failed && u.Error.Code == api.CodeDamaged {
				u = h.upload(t, p)
			}
			if u.State != api.Stored || !bytes.Equal(h.fetch(t, p), p.file) {
				t.Errorf("step %d, fault %d: ended as %+v, %v", step, fault, u, u.Error)
			}
		}
	}
}
