package endpoint_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"disksync/cache"
	"disksync/config"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/mediachild"
	"disksync/internal/problem"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/publish"
)

const block = image.BlockSize

// disk is the content of a small disk: each block with a seed other than 0 has a short run of bytes that follow from the seed, so
// that it costs little to pack.
func disk(seeds ...uint64) []byte {
	d := make([]byte, len(seeds)*block+3*image.SectorSize)
	for i, seed := range seeds {
		if seed != 0 {
			rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 3}).Read(d[i*block+int(seed%64)*4096:][:20000])
		}
	}
	return d
}

// hook answers a request in the Synchronizer's place, or leaves it to next.
type hook func(w http.ResponseWriter, r *http.Request, next http.Handler)

// front is what stands between an endpoint and its Synchronizer, with the Synchronizer's own key, and can answer in its place.
type front struct {
	*httptest.Server
	hook     atomic.Pointer[hook]
	identity atomic.Pointer[tls.Certificate]
	own      tls.Certificate
}

func (f *front) answer(h hook) { f.hook.Store(&h) }

func (f *front) honest() { f.hook.Store(nil) }

// world is a Synchronizer with the user alice, and an endpoint.
type world struct {
	*testing.T
	lab    *lab.Lab
	front  *front
	dir    string // the endpoint's state folder
	finder cache.Finder
	reader []string     // the program that reads devices and disks
	log    *slog.Logger // nil: nothing is logged
	e      *endpoint.Engine
	// hotplug is what the endpoint knows of media that come and go; nil: nothing.
	hotplug func(durable.FS) endpoint.Hotplug
	now     func() time.Time // nil: as it is
	// powerDown is how long a guest may take to shut down; 0: as long as always.
	powerDown time.Duration
	// agentTime is how long a guest's agent may take to answer; 0: as long as always, which a busy machine need not manage.
	agentTime time.Duration
}

// newWorld starts a world; the endpoint is neither registered nor logged in.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, lab: lab.Start(t), dir: filepath.Join(t.TempDir(), "state")}
	w.lab.User(t, "alice")
	w.front = newFront(t, w.lab)
	// A machine without media, whatever is mounted where the test runs.
	proc := t.TempDir()
	w.finder = cache.Finder{Proc: proc, Sys: proc}
	w.reader = []string{shipped.Path(t, "disksyncmgr"), "disksyncmgr", mediachild.Argument}
	w.write(filepath.Join(proc, "self/mountinfo"), nil)
	w.open()
	t.Cleanup(func() { w.close() })
	return w
}

func newFront(t *testing.T, l *lab.Lab) *front {
	t.Helper()
	f := &front{}
	var err error
	if f.own, err = tls.LoadX509KeyPair(filepath.Join(l.Dir, "tls.crt"), filepath.Join(l.Dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	f.identity.Store(&f.own)
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := f.hook.Load(); h != nil {
			(*h)(w, r, l.Server)
			return
		}
		l.Server.ServeHTTP(w, r)
	}))
	f.EnableHTTP2 = true
	f.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.identity.Load(), nil }}
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that go away, as they should when the key is another
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

func (w *world) write(file string, b []byte) {
	w.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, b, 0o600)); err != nil {
		w.Fatal(err)
	}
}

// in is the same world for a part of the test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.T = t
	return &part
}

// open opens the state folder as a new process does.
func (w *world) open() {
	w.Helper()
	var err error
	// A line that fails once has failed for good: nobody here waits for it to come back.
	if w.e, err = endpoint.Open(context.Background(), endpoint.Options{Dir: w.dir, Log: w.log, Finder: w.finder, Reader: w.reader, Hotplug: w.hotplug,
		GiveUp: time.Nanosecond, PowerDown: w.powerDown, AgentTime: w.agentTime, Now: w.now}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) close() {
	w.Helper()
	if w.e == nil {
		return
	}
	if err := w.e.Close(); err != nil {
		w.Error(err)
	}
	w.e = nil
}

// restart ends the process and starts another.
func (w *world) restart() {
	w.Helper()
	w.close()
	w.open()
}

// logIn registers and logs alice in.
func (w *world) logIn() {
	w.Helper()
	if _, err := w.e.Register(w.Context(), w.front.URL, w.lab.Fingerprint, false); err != nil {
		w.Fatal(err)
	}
	if err := w.e.Login(w.Context(), "alice", lab.Password); err != nil {
		w.Fatal(err)
	}
}

// version publishes a disk as the next version of an image, packed in the quickest way.
func (w *world) version(name string, d []byte) {
	w.Helper()
	file := filepath.Join(w.TempDir(), "disk.raw")
	w.write(file, d)
	o := publish.Options{Image: name, Spool: w.TempDir(), Level: 1, Disks: []publish.Disk{{Role: image.System, Path: file}}}
	if _, err := publish.Run(w.Context(), w.lab.Admin, o); err != nil {
		w.Fatal(err)
	}
}

// publish publishes disks as versions of an image and assigns the newest to alice.
func (w *world) publish(name string, disks ...[]byte) {
	w.Helper()
	for _, d := range disks {
		w.version(name, d)
	}
	w.lab.Assign(w, name, "alice", 0)
}

// ready is a world where alice may have the image win7 with these versions.
func ready(t *testing.T, disks ...[]byte) *world {
	t.Helper()
	w := newWorld(t)
	w.publish("win7", disks...)
	w.logIn()
	return w
}

// start starts an operation and returns it.
func (w *world) start(r endpoint.Request) *endpoint.Operation {
	w.Helper()
	o, err := w.e.Start(r)
	if err != nil {
		w.Fatal(err)
	}
	return o
}

func (w *world) wait(o *endpoint.Operation) endpoint.Status {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), testkit.Patience)
	defer cancel()
	if err := o.Wait(ctx); err != nil {
		w.Fatalf("waiting for an operation: %v; %+v", err, o.Status())
	}
	return o.Status()
}

// run runs an operation to its end, which must be a good one.
func (w *world) run(r endpoint.Request) *endpoint.Receipt {
	w.Helper()
	s := w.wait(w.start(r))
	if err := s.Outcome(); err != nil {
		w.Fatalf("%s: %v", r.Kind, problem.Of(err))
	}
	return s.Receipt
}

// fail runs an operation to its end, which must be a bad one, and returns the code.
func (w *world) fail(r endpoint.Request) (string, endpoint.Status) {
	w.Helper()
	s := w.wait(w.start(r))
	return code(w, s.Outcome()), s
}

// holds compares the disk of a VM, as it is exported, with what it should hold.
func (w *world) holds(vm string, want []byte) {
	w.Helper()
	out := make(mem, len(want))
	n, err := w.e.Export(w.Context(), vm, image.System, out, deploy.NewTally())
	if err != nil || n != int64(len(want)) || !bytes.Equal(out, want) {
		w.Errorf("VM %s does not hold what was published: %d bytes, %v", vm, n, err)
	}
}

// mem is a file of fixed size in memory.
type mem []byte

func (m mem) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, fmt.Errorf("%d bytes at %d are beyond the end", len(p), off)
	}
	return copy(m[off:], p), nil
}

// nothingInstalled fails unless the endpoint has no VM and no complete disk.
func (w *world) nothingInstalled() {
	w.Helper()
	vms, err := w.e.VMs()
	if err != nil || len(vms) != 0 {
		w.Errorf("there are VMs: %+v, %v", vms, err)
	}
	if got := w.files("disks", ".vhd"); len(got) != 0 {
		w.Errorf("there are disks: %v", got)
	}
}

// files returns the names in a folder of the state folder that end so.
func (w *world) files(dir, suffix string) []string {
	w.Helper()
	entries, err := os.ReadDir(filepath.Join(w.dir, dir))
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			out = append(out, e.Name())
		}
	}
	return out
}

// signingKey returns the Synchronizer's key: who has broken into it has it too.
func (w *world) signingKey() ed25519.PrivateKey {
	w.Helper()
	b, err := os.ReadFile(filepath.Join(w.lab.Dir, "signing.key"))
	if err != nil {
		w.Fatal(err)
	}
	p, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(p.Bytes)
	if err != nil {
		w.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}

// code returns the code of an error for people; anything else is not fit for them.
func code(t testing.TB, err error) string {
	t.Helper()
	p, ok := errors.AsType[*problem.Problem](err)
	if !ok {
		t.Errorf("an error that nobody explained: %v", err)
		return ""
	}
	return p.Code
}

func (w *world) set(name string, v any) {
	w.Helper()
	if err := w.e.Set(name, v); err != nil {
		w.Fatal(err)
	}
}

// patient lets the line stand still, for tests that hold it up.
func (w *world) patient() { w.set(config.LowSpeedTime, int32(3600)) }
