package main

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"disksync/api"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/syncclient"
	"disksync/synchronizer"
)

// served is "synchronizer serve" as a process, and what is in its backups.
type served struct {
	dir   string
	run   *testkit.Program
	admin *syncclient.Client
	user  *syncclient.Client
	token string
	key   image.PublicKey
	line  api.BackupLine
	want  map[image.Version][]byte
}

// start starts the process, and the clients.
func (s *served) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "serve", "--data", s.dir, "--listen", "127.0.0.1:0")
	cmd.Args[0] = "synchronizer" // what the test's program is then
	s.run = testkit.StartProgram(t, cmd)
	words := strings.Fields(s.run.Line)
	u, err := url.Parse(words[1])
	if err != nil {
		t.Fatal(err)
	}
	fp, err := syncclient.ParseFingerprint(words[3])
	if err != nil {
		t.Fatal(err)
	}
	c, err := syncclient.New(syncclient.Options{URL: u, Fingerprint: fp})
	if err != nil {
		t.Fatal(err)
	}
	s.user, s.admin = c.WithToken(s.token), syncclient.NewLocal(s.dir, synchronizer.SocketName)
}

// kill ends the process as a crash does.
func (s *served) kill(t *testing.T) {
	t.Helper()
	s.user.Close()
	s.admin.Close()
	if !s.run.Kill() {
		t.Fatalf("it ended by itself: %s", s.run.Stderr())
	}
}

// layer uploads the layer from one disk, or nothing, to another.
func (s *served) layer(t *testing.T, c *syncclient.Client, from image.State, old, disk []byte) layer.Result {
	t.Helper()
	var file bytes.Buffer
	o := layer.EncodeOptions{Level: 1, Near: true}
	if old != nil {
		o.FromDisk = bytes.NewReader(old)
	}
	res, err := layer.Encode(t.Context(), &file, from, contentOf{bytes.NewReader(disk)}, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Upload(t.Context(), res.Index.ID(), bytes.NewReader(file.Bytes()), int64(file.Len()), nil); err != nil {
		t.Fatal(err)
	}
	return res
}

// fill publishes an image, and makes points of it by what differs from each one to the next.
func (s *served) fill(t *testing.T, points int) {
	t.Helper()
	ctx := t.Context()
	disk := lab.Disk(1, 2)
	res := s.layer(t, s.admin, image.State{}, nil, disk)
	steps := []func() error{
		func() error {
			_, err := s.admin.Seal(ctx, "win7", api.Seal{Version: 1, Disks: []api.SealDisk{{Role: image.System, Layer: res.Index.ID()}}})
			return err
		},
		func() error { return s.admin.AddUser(ctx, api.NewUser{Name: "alice", Password: lab.Password}) },
		func() error {
			return s.admin.Assign(ctx, api.Assignment{Image: "win7", To: api.Subject{Kind: api.ToUser, Name: "alice"}})
		},
		func() error {
			tok, err := s.user.Login(ctx, api.Login{User: "alice", Password: lab.Password, Device: api.Device{ID: image.RandomUUID([16]byte{1}), Name: "x"}})
			s.token, s.user = tok.Token, s.user.WithToken(tok.Token)
			return err
		},
		func() (err error) {
			server, err := s.user.Server(ctx)
			s.key = server.SigningKey
			return err
		},
		func() error {
			offers, err := s.user.Offers(ctx)
			if err != nil {
				return err
			}
			s.line, err = s.user.OpenBackup(ctx, api.NewBackup{VM: image.RandomUUID([16]byte{2}), Name: "work", Image: "win7", ImageID: offers[0].ImageID})
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for n := range image.Version(points) {
		old, from := disk, res.State
		disk = bytes.Clone(old)
		lab.Fill(disk[int(n)*4096:int(n)*4096+16384], uint64(n)+100)
		res = s.layer(t, s.user, from, old, disk)
		_, err := s.user.SealPoint(ctx, s.line.ID, api.SealPoint{Point: n + 1, Version: 1, Consistency: image.Stopped,
			Disks: []api.PointDisk{{Role: image.System, State: res.State.ID(), Layer: res.Index.ID()}}})
		if err != nil {
			t.Fatal(err)
		}
		s.want[n+1] = disk
	}
}

// check builds all points and compares them with what was backed up. It returns how many layers lead to one at most.
func (s *served) check(t *testing.T) (layers int) {
	t.Helper()
	line, err := s.user.Backup(t.Context(), s.line.ID)
	if err != nil {
		t.Fatal(err)
	}
	var got []image.Version
	for _, p := range line.Points {
		got = append(got, p.Point)
	}
	if !slices.Equal(got, slices.Sorted(maps.Keys(s.want))) {
		t.Fatalf("points %v", got)
	}
	for n, want := range s.want {
		env, err := s.user.PointManifest(t.Context(), s.line.ID, n)
		if err != nil {
			t.Fatal(err)
		}
		m, err := image.VerifyManifest(env, s.key)
		if err != nil {
			t.Fatal(err)
		}
		var path []layer.Source
		for _, ref := range m.Manifest().Disks[0].Layers {
			x, err := s.user.Index(t.Context(), ref)
			if err != nil {
				t.Fatalf("point %d: %v", n, err)
			}
			path = append(path, layer.Source{Index: x, R: s.user.ReaderAt(t.Context(), ref)})
		}
		layers = max(layers, len(path))
		r, err := layer.NewReader(path, testkit.Scratch(t))
		if err != nil {
			t.Fatal(err)
		}
		disk := make([]byte, r.Size())
		if _, err := r.ReadAt(disk, 0); err != nil || !bytes.Equal(disk, want) {
			t.Fatalf("point %d is another one: %v", n, err)
		}
		r.Close()
	}
	return layers
}

// TestKilledServe kills "serve" while it joins layers because backups were deleted, again and again. All backups that are left are exactly
// what was backed up, at every time, and in the end the work is done.
func TestKilledServe(t *testing.T) {
	t.Parallel()
	const points = 8
	s := &served{dir: filepath.Join(t.TempDir(), "data"), want: map[image.Version][]byte{}}
	s.start(t)
	s.fill(t, points)
	r := rand.New(rand.NewPCG(1, 1))
	cut := 0
	for len(s.want) > 2 {
		all := slices.Sorted(maps.Keys(s.want))
		n := all[r.IntN(len(all)-1)]
		if err := s.admin.DeletePoint(t.Context(), s.line.ID, n); err != nil {
			t.Fatal(err)
		}
		delete(s.want, n)
		polls := r.IntN(12)
		testkit.Until(t, "some time passes", func() bool { polls--; return polls < 0 })
		s.kill(t)
		if half, err := filepath.Glob(filepath.Join(s.dir, "layers", "join-*.tmp")); err == nil && len(half) > 0 {
			cut++
		}
		s.start(t)
		s.check(t)
	}
	if cut == 0 {
		t.Error("it was never killed in the middle of joining")
	}
	t.Logf("killed in the middle of joining: %d times", cut)
	testkit.Until(t, "the layers are joined", func() bool { return s.check(t) == 1+len(s.want) })
	if left, err := filepath.Glob(filepath.Join(s.dir, "layers", "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := s.run.Stop(); err != nil {
		t.Error(err)
	}
}
