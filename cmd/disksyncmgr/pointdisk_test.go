package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"disksync/api"
	"disksync/dbusapi"
	"disksync/image"
	"disksync/internal/problem"
)

// testDisk gives its number in each byte, or answers with an error. Bytes from 1024 on are given when held is closed. To use it when it is
// closed, or to close it while it is used, is an error.
type testDisk struct {
	t      *testing.T
	number byte
	size   int64
	err    error
	came   chan struct{}
	held   chan struct{}

	mu     sync.Mutex
	users  int
	closed bool
}

func (d *testDisk) Size() int64 { return d.size }

func (d *testDisk) use(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users += n; d.closed {
		d.t.Errorf("disk %d is read though it is closed", d.number)
	}
}

func (d *testDisk) ReadAt(p []byte, off int64) (int, error) {
	d.use(1)
	defer d.use(-1)
	if off >= 1024 {
		d.came <- struct{}{}
		<-d.held
	} else if d.err != nil {
		return 0, d.err
	}
	for i := range p {
		p[i] = d.number
	}
	return len(p), nil
}

func (d *testDisk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.users > 0 {
		d.t.Errorf("disk %d is closed with %d readers; before: %t", d.number, d.users, d.closed)
	}
	d.closed = true
	return nil
}

func (d *testDisk) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// opener opens disks in turn, each of which fails as errs says; where refused says so, none.
type opener struct {
	t       *testing.T
	errs    []error
	refused error
	tries   int
	disks   []*testDisk
}

func (o *opener) open() (dbusapi.Disk, error) {
	if o.tries++; o.refused != nil {
		return nil, o.refused
	}
	d := &testDisk{t: o.t, number: byte(len(o.disks)), size: 4096, came: make(chan struct{}), held: make(chan struct{})}
	if int(d.number) < len(o.errs) {
		d.err = o.errs[d.number]
	}
	o.disks = append(o.disks, d)
	return d, nil
}

func pointDiskOf(t *testing.T, o *opener) *pointDisk {
	t.Helper()
	o.t = t
	p, err := openPointDisk(o.open)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var errLine = problem.New("DS-NET", problem.Unreachable, nil, "the line failed", "", "")

// TestPointDiskExchange: a disk whose reader failed is exchanged, and stays open for those who read in it until they are done.
func TestPointDiskExchange(t *testing.T) {
	o := &opener{errs: []error{errLine, nil}}
	p := pointDiskOf(t, o)
	first := o.disks[0]
	read := make(chan byte, 2)
	for range 2 {
		go func() {
			var b [16]byte
			if n, err := p.ReadAt(b[:], 1024); n != len(b) || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			read <- b[15]
		}()
		<-first.came
	}
	var b [16]byte
	for range 3 {
		if n, err := p.ReadAt(b[:], 0); n != len(b) || err != nil || b[0] != 1 {
			t.Errorf("%d bytes of disk %d, %v", n, b[0], err)
		}
	}
	if first.isClosed() || o.tries != 2 {
		t.Errorf("closed: %t, after %d tries", first.isClosed(), o.tries)
	}
	close(first.held)
	for range 2 {
		if got := <-read; got != 0 {
			t.Errorf("the other readers got bytes of disk %d", got)
		}
	}
	p.Close()
	for _, d := range o.disks {
		if !d.isClosed() {
			t.Errorf("disk %d is open", d.number)
		}
	}
	if n, err := p.ReadAt(b[:], 0); n != 0 || !errors.Is(err, fs.ErrClosed) || o.tries != 2 {
		t.Errorf("%d bytes were read when it was closed, %v, %d tries", n, err, o.tries)
	}
}

// TestPointDiskCloses: whoever reads when it is closed gets what was asked for, and the disk is closed then.
func TestPointDiskCloses(t *testing.T) {
	o := &opener{}
	p := pointDiskOf(t, o)
	done := make(chan error)
	go func() {
		_, err := p.ReadAt(make([]byte, 1), 1024)
		done <- err
	}()
	<-o.disks[0].came
	p.Close()
	close(o.disks[0].held)
	if err := <-done; err != nil || !o.disks[0].isClosed() {
		t.Errorf("%v; closed: %t", err, o.disks[0].isClosed())
	}
}

// TestPointDiskFails: what a disk that is opened anew cannot mend is told without opening one, and what was good stays so.
func TestPointDiskFails(t *testing.T) {
	damaged := problem.New("DS-SERVER-DAMAGED", problem.Damaged, nil, "the Synchronizer's copy is damaged", "", "")
	refused := errors.New("the backup was removed")
	for _, c := range []struct {
		name    string
		errs    []error
		refused error
		want    []error
		tries   int
	}{
		{"a damaged block", []error{damaged}, nil, []error{damaged}, 1},
		{"a line that fails again", []error{errLine, errLine}, nil, []error{errLine}, 2},
		{"a line that fails, and damage", []error{errLine, damaged}, nil, []error{damaged}, 2},
		{"a point that has gone", []error{errLine}, refused, []error{errLine, refused}, 2},
	} {
		o := &opener{errs: c.errs}
		p := pointDiskOf(t, o)
		o.refused = c.refused
		b := make([]byte, 8)
		_, err := p.ReadAt(b, 0)
		for _, want := range c.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if o.tries != c.tries {
			t.Errorf("%s: the disk was opened %d times", c.name, o.tries)
		}
		last := o.disks[len(o.disks)-1]
		done := make(chan error)
		go func() {
			_, err := p.ReadAt(b, 2048)
			done <- err
		}()
		<-last.came
		close(last.held)
		if err := <-done; err != nil || b[0] != last.number {
			t.Errorf("%s: a good block: %v", c.name, err)
		}
		p.Close()
		for _, d := range o.disks {
			if !d.isClosed() {
				t.Errorf("%s: disk %d is open", c.name, d.number)
			}
		}
	}
}

// TestPointDiskOfAnotherSize: another disk is not taken for the one that was mounted.
func TestPointDiskOfAnotherSize(t *testing.T) {
	o := &opener{errs: []error{errLine}}
	p := pointDiskOf(t, o)
	p.size--
	if _, err := p.ReadAt(make([]byte, 8), 0); !errors.Is(err, errLine) || !o.disks[1].isClosed() || o.disks[0].isClosed() {
		t.Errorf("%v", err)
	}
	p.Close()
}

// TestPointDiskWaits: whoever waited while it was opened in vain does not try again; who comes later does.
func TestPointDiskWaits(t *testing.T) {
	o := &opener{errs: []error{errLine}}
	p := pointDiskOf(t, o)
	waits, err := p.use()
	if err != nil {
		t.Fatal(err)
	}
	before := p.failures()
	o.refused = errors.New("nobody answers")
	b := make([]byte, 8)
	if _, err := p.ReadAt(b, 0); !errors.Is(err, o.refused) || o.tries != 2 {
		t.Errorf("%v, %d tries", err, o.tries)
	}
	if _, err := p.exchange(waits, errLine, before); !errors.Is(err, o.refused) || !errors.Is(err, errLine) || o.tries != 2 {
		t.Errorf("%v, %d tries", err, o.tries)
	}
	o.refused = nil
	if n, err := p.ReadAt(b, 0); n != len(b) || err != nil || b[0] != 1 || o.tries != 3 {
		t.Errorf("%d bytes, %v, %d tries", n, err, o.tries)
	}
	p.Close()
	if !o.disks[0].isClosed() || !o.disks[1].isClosed() {
		t.Error("a disk is open")
	}
}

// renamed is a door behind which the name of a VM means other backups whenever it is asked for. The disks that it opens fail.
type renamed struct {
	door
	t      *testing.T
	next   byte
	opened []string
}

func (d *renamed) BackupsOf(context.Context, string) (api.BackupLine, error) {
	d.next++
	return api.BackupLine{ID: image.RandomUUID([16]byte{d.next})}, nil
}

func (d *renamed) OpenDisk(_ context.Context, vm string, _ image.Version, r image.Role) (dbusapi.Disk, error) {
	if r == image.User {
		return nil, problem.New("DS-NO-DISK", problem.NotFound, nil, "no such disk", "", "")
	}
	d.opened = append(d.opened, vm)
	return &testDisk{t: d.t, size: 1024, err: errors.New("the line failed")}, nil
}

// TestReopenedByID: what is opened anew are the backups that the name meant at first.
func TestReopenedByID(t *testing.T) {
	d := &renamed{t: t}
	disks, err := openPointDisks(t.Context(), d, "win7", 1, []image.Role{image.System, image.User})
	if err != nil || len(disks) != 1 {
		t.Fatal(disks, err)
	}
	p := disks[image.System]
	defer p.Close()
	for range 2 {
		if _, err := p.ReadAt(make([]byte, 1), 0); err == nil {
			t.Error("no error")
		}
	}
	id := image.RandomUUID([16]byte{1}).String()
	if want := []string{id, id, id}; !slices.Equal(d.opened, want) {
		t.Errorf("opened %v, want %v", d.opened, want)
	}
}
