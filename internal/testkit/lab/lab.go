// Package lab gives tests a real Synchronizer on a loopback port, with images, users and sticks made by the programs' own
// code.
package lab

import (
	"context"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"disksync/api"
	"disksync/image"
	"disksync/media"
	"disksync/publish"
	"disksync/syncclient"
	"disksync/synchronizer"
)

// Password is the password of every user that the lab makes.
const Password = "correct horse"

// Lab is a Synchronizer that lives as long as the test.
type Lab struct {
	Dir         string // its data folder
	URL         string
	Fingerprint syncclient.Fingerprint
	Server      *synchronizer.Server
	Admin       *syncclient.Client // over the local socket
}

// Start starts a Synchronizer on a free port.
func Start(t testing.TB) *Lab {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "synchronizer")
	s, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	network, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local, err := s.ListenLocal()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, local, network) }()
	l := &Lab{
		Dir: dir, URL: "https://" + network.Addr().String(), Server: s, Admin: syncclient.NewLocal(dir, synchronizer.SocketName),
	}
	t.Cleanup(func() {
		l.Admin.Close()
		stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if l.Fingerprint, err = syncclient.ParseFingerprint(s.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	return l
}

// User makes a user who has the lab's Password.
func (l *Lab) User(t testing.TB, name string) {
	t.Helper()
	if err := l.Admin.AddUser(t.Context(), api.NewUser{Name: name, Password: Password}); err != nil {
		t.Fatal(err)
	}
}

// Assign gives an image to a user; version 0 is the newest.
func (l *Lab) Assign(t testing.TB, name, user string, v image.Version) {
	t.Helper()
	a := api.Assignment{Image: name, To: api.Subject{Kind: api.ToUser, Name: user}, Version: v}
	if err := l.Admin.Assign(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// Publish publishes a raw disk as the system disk of the next version of an image.
func (l *Lab) Publish(t testing.TB, name string, disk []byte) publish.Result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := publish.Run(t.Context(), l.Admin, publish.Options{
		Image: name, Spool: t.TempDir(), Disks: []publish.Disk{{Role: image.System, Path: file}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Stick writes a version to a folder and returns the folder.
func (l *Lab) Stick(t testing.TB, name string, v image.Version) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stick")
	if _, err := media.Write(t.Context(), l.Admin, media.Options{Want: []media.Want{{Image: name, Version: v}}, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Client returns a client over the network with the token, which may be empty.
func (l *Lab) Client(t testing.TB, token string) *syncclient.Client {
	t.Helper()
	u, err := url.Parse(l.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := syncclient.New(syncclient.Options{URL: u, Fingerprint: l.Fingerprint, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Login logs a user in from a new device and returns a client with the token.
func (l *Lab) Login(t testing.TB, user string) *syncclient.Client {
	t.Helper()
	c := l.Client(t, "")
	tok, err := c.Login(t.Context(), api.Login{
		User: user, Password: Password, Device: api.Device{ID: image.RandomUUID([16]byte{0: byte(rand.Uint32()), 1: byte(rand.Uint32())}), Name: "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l.Client(t, tok.Token)
}

// Disk returns a disk of that many blocks and a few sectors more. Each block that has a seed other than 0 holds bytes that
// depend on the seed, of which about half compress; the others are zero.
func Disk(seeds ...uint64) []byte {
	const tail = 3 * image.SectorSize
	d := make([]byte, len(seeds)*image.BlockSize+tail)
	for i, seed := range seeds {
		if seed != 0 {
			Fill(d[i*image.BlockSize:(i+1)*image.BlockSize], seed)
		}
	}
	return d
}

// Fill writes bytes that depend on seed, of which about half compress.
func Fill(p []byte, seed uint64) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	rand.NewChaCha8(key).Read(p)
	for i := 4096; i+4096 <= len(p); i += 8192 {
		clear(p[i : i+4096])
	}
}
