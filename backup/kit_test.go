package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"disksync/agefile"
	"disksync/api"
	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/mediachild"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/syncclient"
)

const (
	block    = image.BlockSize
	spoolDir = "spool"
)

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 5}).Read(b)
	return b
}

func nowForTests() time.Time { return time.Unix(1700000000, 0) }

// shipped is the program that finds out what of a disk is free.
var shipped = testkit.NewShipped("cmd/disksyncmgr")

func TestMain(m *testing.M) {
	code := m.Run()
	shipped.Remove()
	os.Exit(code)
}

// house is a Synchronizer with an image that alice may have, and an endpoint's file system on which its disk is installed.
type house struct {
	*testing.T
	lab    *lab.Lab
	token  string
	cert   tls.Certificate
	key    agefile.Identity
	spool  string // a real folder
	signed image.Verified
	golden []byte
	state  image.State // of golden
	fsys   *faultfs.FS
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, lab: lab.Start(t), spool: t.TempDir(), golden: make([]byte, 2*block)}
	for i := range 2 {
		copy(h.golden[i*block+4096*i:], noise(3000, uint64(i)))
	}
	h.state = stateOf(h.golden)
	h.lab.User(t, "alice")
	h.lab.Publish(t, "win7", h.golden)
	h.lab.Assign(t, "win7", "alice", 0)
	c := h.logIn()
	var err error
	if h.cert, err = tls.LoadX509KeyPair(filepath.Join(h.lab.Dir, "tls.crt"), filepath.Join(h.lab.Dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	if h.key, err = agefile.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	env, err := c.Manifest(t.Context(), "win7", 1)
	if err != nil {
		t.Fatal(err)
	}
	if h.signed, err = image.VerifyManifest(env, h.signer(c)); err != nil {
		t.Fatal(err)
	}
	h.fsys = faultfs.New()
	s := mustOpen(t, h.fsys)
	j := &deploy.Job{Store: s, Manifest: h.signed, Net: &deploy.Net{Client: c, MaxRange: 8 << 20}, Tally: deploy.NewTally()}
	p, err := j.Plan(t.Context())
	if err == nil {
		_, err = j.Run(t.Context(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// logIn logs alice in.
func (h *house) logIn() *syncclient.Client {
	h.Helper()
	tok, err := h.lab.Client(h, "").Login(h.Context(), api.Login{
		User: "alice", Password: lab.Password, Device: api.Device{ID: image.RandomUUID([16]byte{1}), Name: "laptop"},
	})
	if err != nil {
		h.Fatal(err)
	}
	h.token = tok.Token
	return h.lab.Client(h, h.token)
}

// stored returns a layer as the Synchronizer keeps it.
func (h *house) stored(id image.LayerID) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(h.lab.Dir, "layers", id.String()+".dsl"))
	if sum := sha256.Sum256(b); err == nil && image.LayerID(sum) != id {
		err = errors.New("it has another name than its content")
	}
	return b, err
}

func (h *house) signer(c *syncclient.Client) image.PublicKey {
	h.Helper()
	s, err := c.Server(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	return s.SigningKey
}

func mustOpen(t *testing.T, fsys durable.FS) *deploy.Store {
	t.Helper()
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stateOf(d []byte) image.State {
	st := image.State{Size: int64(len(d)), Blocks: make([]image.Digest, image.BlockCount(int64(len(d))))}
	for i := range st.Blocks {
		st.Blocks[i] = image.SumBlock(d[i*block : (i+1)*block])
	}
	return st
}

// laptop is an endpoint with the VM "vm", whose line to the Synchronizer looks at what is sent.
type laptop struct {
	h      *house
	fsys   *faultfs.FS
	seal   durable.FS // where what is encrypted is kept; nil: fsys
	client *syncclient.Client
	close  func()
	want   []byte        // what the disk holds
	state  image.State   // of want
	layer  image.LayerID // that is kept to be sent; zero: none

	mu sync.Mutex
	// refuse is called in place of sending anything of a layer; nil: it is sent.
	refuse func()
	chunks int
	good   image.LayerID // the last of which something was sent
	bad    []error       // of what was sent
}

// laptop returns a laptop with a VM of its own.
func (h *house) laptop() (*laptop, error) {
	l := &laptop{h: h, fsys: h.fsys.Clone(), want: slices.Clone(h.golden), state: h.state}
	s, err := deploy.OpenStore(l.fsys, nowForTests)
	if err == nil {
		_, err = s.Commit("vm", h.signed, nil)
	}
	if err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(l)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{h.cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of a line that is cut
	server.StartTLS()
	u, err := url.Parse(server.URL)
	if err == nil {
		l.client, err = syncclient.New(syncclient.Options{URL: u, Fingerprint: h.lab.Fingerprint, Token: h.token, Keys: []agefile.Identity{h.key}})
	}
	l.close = func() {
		if l.client != nil {
			l.client.Close()
		}
		server.Close()
	}
	return l, err
}

// ServeHTTP looks at what is sent of layers, and passes all on.
func (l *laptop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPatch {
		l.h.lab.Server.ServeHTTP(w, r)
		return
	}
	l.mu.Lock()
	refuse := l.refuse
	l.mu.Unlock()
	if refuse != nil {
		refuse()
		panic(http.ErrAbortHandler)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err == nil {
		err = l.look(strings.TrimPrefix(r.URL.Path, "/v1/uploads/"), r.URL.Query().Get("offset"), b)
	}
	l.mu.Lock()
	l.chunks++
	if err != nil {
		l.bad = append(l.bad, err)
	}
	l.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(b))
	l.h.lab.Server.ServeHTTP(w, r)
}

// look compares a part of a layer that is sent with what is kept of it here, which must be all of a good one.
func (l *laptop) look(id, offset string, b []byte) error {
	kept, err := l.kept()
	if err != nil {
		return fmt.Errorf("sent without being kept: %w", err)
	}
	if sum := sha256.Sum256(kept); image.LayerID(sum).String() != id {
		return errors.New("what is kept is not what is named")
	}
	off, err := strconv.Atoi(offset)
	if err != nil || off > len(kept) || !bytes.HasPrefix(kept[off:], b) {
		return fmt.Errorf("%d bytes at %s are not what is kept", len(b), offset)
	}
	if err := l.h.opens(kept, l.state); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.good = image.LayerID(sha256.Sum256(kept))
	return nil
}

// kept returns the encrypted layer in the spool.
func (l *laptop) kept() ([]byte, error) {
	name, err := l.keptName()
	if err != nil {
		return nil, err
	}
	return durable.ReadFile(l.fsys, name, 64<<20)
}

func (l *laptop) keptName() (string, error) {
	entries, err := l.fsys.ReadDir(spoolDir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".age") {
			return spoolDir + "/" + e.Name(), nil
		}
	}
	return "", errors.New("nothing is kept")
}

// opens has an encrypted layer opened and unpacked, and compares the state that it leads to.
func (h *house) opens(sealed []byte, want image.State) error {
	f, err := agefile.Open(bytes.NewReader(sealed), int64(len(sealed)), []agefile.Identity{h.key})
	if err != nil {
		return err
	}
	x, err := layer.ReadIndex(f.Reader(), f.Size())
	if err != nil {
		return err
	}
	scratch, err := durable.Unnamed(h.spool)
	if err != nil {
		return err
	}
	defer scratch.Close()
	err = layer.Verify(context.Background(), f.Reader(), x, bytes.NewReader(h.golden), scratch, func(_ layer.Frame, err error) error { return err })
	if err != nil {
		return err
	}
	st, err := x.Apply(h.state)
	if err == nil && st.ID() != want.ID() {
		err = errors.New("it leads to another state")
	}
	return err
}

// write writes to the disk of the VM, and freezes it.
func (l *laptop) write(off int, p []byte) error {
	s, err := deploy.OpenStore(l.fsys, nowForTests)
	if err != nil {
		return err
	}
	vm, err := s.VM("vm")
	if err != nil {
		return err
	}
	live, err := s.OpenLive(vm.Current.Disks[0].Leaf)
	if err != nil {
		return err
	}
	_, err = live.Disk.WriteAt(p, int64(off))
	if err := errors.Join(err, live.Close()); err != nil {
		return err
	}
	copy(l.want[off:], p)
	l.state = stateOf(l.want)
	l.layer = image.LayerID{}
	_, err = s.Freeze("vm", nil, image.Stopped)
	return err
}

// run is a process that begins with what a crash left, and makes a point of what is frozen. arm is called when its work on that begins.
func (l *laptop) run(ctx context.Context, arm func()) (*backup.Result, error) {
	s, err := deploy.OpenStore(l.fsys, nowForTests)
	if err != nil {
		return nil, err
	}
	vm, err := s.VM("vm")
	if err != nil {
		return nil, err
	}
	seal := l.seal
	if seal == nil {
		seal = l.fsys
	}
	fsys := l.fsys
	fsys.Arm(0, faultfs.None)
	arm()
	if err := tidy(fsys, vm.ID); err != nil {
		return nil, err
	}
	j := &backup.Job{
		Reader: mediachild.Options{Command: []string{shipped.Path(l.h.T, "disksyncmgr"), "disksyncmgr", mediachild.Argument}},
		Client: l.client, Store: s, VM: vm, Spool: l.h.spool, Tally: deploy.NewTally(),
		Seal: func(bool, []string) (*backup.Seal, error) {
			return &backup.Seal{Recipients: []string{l.h.key.Recipient()}, Keys: []agefile.Identity{l.h.key}, FS: seal, Dir: spoolDir}, nil
		},
		Ask: func(_ context.Context, do func() error) error {
			// A process that has no power asks nobody.
			if _, err := fsys.Stat("."); errors.Is(err, faultfs.ErrPowerOff) {
				return err
			}
			return do()
		},
	}
	return j.Run(ctx)
}

// tidy does with the spool what the service does when it starts, and before a backup.
func tidy(fsys durable.FS, vm image.UUID) error {
	if err := durable.RemoveTemps(fsys, spoolDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := backup.Tidy(fsys, spoolDir, func(id image.UUID) bool { return id == vm }); err != nil {
		return err
	}
	return durable.MakeDir(fsys, spoolDir, 0o700)
}

// keep makes a layer and keeps it, because the line is cut when it is to be sent.
func (l *laptop) keep() error {
	ctx, cancel := context.WithCancel(l.h.Context())
	defer cancel()
	l.mu.Lock()
	l.refuse = cancel
	l.mu.Unlock()
	_, err := l.run(ctx, func() {})
	l.mu.Lock()
	l.refuse = nil
	l.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a line that is cut: %w", err)
	}
	b, err := l.kept()
	l.layer = sha256.Sum256(b)
	return err
}

// end takes the laptop and its backups away.
func (l *laptop) end() error {
	vm, err := mustOpen(l.h.T, l.fsys).VM("vm")
	if err == nil && vm.Backup != nil {
		err = l.h.lab.Admin.DeleteBackup(l.h.Context(), vm.Backup.Line)
	}
	l.close()
	return err
}

// check looks at what there is after a run that succeeded: one point, which is the disk exactly, noted, and nothing else kept or sent.
func (l *laptop) check(res *backup.Result) error {
	want := l.state
	line, err := l.client.Backup(l.h.Context(), res.Line)
	if err != nil {
		return err
	}
	if len(line.Points) != 1 || line.Points[0].Disks[0].State != want.ID() {
		return fmt.Errorf("%d points: %+v", len(line.Points), line.Points)
	}
	env, err := l.client.PointManifest(l.h.Context(), res.Line, line.Points[0].Point)
	if err != nil {
		return err
	}
	m, err := image.VerifyManifest(env, l.h.signer(l.client))
	if err != nil {
		return err
	}
	d := m.Manifest().Disks[0]
	ref := d.Layers[len(d.Layers)-1]
	if !l.layer.IsZero() && ref.ID != l.layer {
		return errors.New("what was kept was not gone on with")
	}
	if _, err := l.h.stored(ref.ID); err != nil || ref.ID != l.good || ref.To != want.ID() {
		return fmt.Errorf("the layer of the point is %s, sent was %s: %w", ref.ID, l.good, errors.Join(err, errors.New("-")))
	}
	if left, err := l.fsys.ReadDir(spoolDir); err != nil || len(left) > 0 {
		return fmt.Errorf("left in the spool: %v, %w", left, err)
	}
	vm, err := mustOpen(l.h.T, l.fsys).VM("vm")
	if err != nil {
		return err
	}
	if held := vm.Current.Disks[0].Held; held == nil || held.State != want.ID() || vm.Backup.Point != line.Points[0].Point {
		return fmt.Errorf("noted is %+v, %+v", held, vm.Backup)
	}
	return l.sentWell()
}

// sentWell returns what was wrong with what was sent.
func (l *laptop) sentWell() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.bad...)
}
