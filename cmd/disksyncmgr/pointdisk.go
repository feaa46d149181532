package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"disksync/dbusapi"
	"disksync/image"
	"disksync/internal/problem"
)

// pointDisk is a disk of a point, opened anew when that can help: the line failed, nobody read it for a while, so that the service has let
// go of it, or the service was exchanged. It is safe for concurrent use.
type pointDisk struct {
	open func() (dbusapi.Disk, error)
	size int64

	opening sync.Mutex // held to open it anew; who reads the disk that there is need not wait for that

	mu     sync.Mutex
	now    *sharedDisk // nil: it is closed
	failed int         // how often it could not be opened anew
	why    error       // the last time
}

// sharedDisk is closed when nobody uses it any more. Its fields are guarded by the mu of its pointDisk.
type sharedDisk struct {
	dbusapi.Disk
	users int // who reads it, and the pointDisk whose present one it is
}

func openPointDisk(open func() (dbusapi.Disk, error)) (*pointDisk, error) {
	d, err := open()
	if err != nil {
		return nil, err
	}
	return &pointDisk{open: open, size: d.Size(), now: &sharedDisk{d, 1}}, nil
}

// openPointDisks opens those disks of a point that there are. They are opened anew by the id of the backups: a name may mean another VM by
// then.
func openPointDisks(ctx context.Context, d door, vm string, point image.Version, roles []image.Role) (map[image.Role]*pointDisk, error) {
	line, err := d.BackupsOf(ctx, vm)
	if err != nil {
		return nil, err
	}
	out := map[image.Role]*pointDisk{}
	for _, r := range roles {
		p, err := openPointDisk(func() (dbusapi.Disk, error) { return d.OpenDisk(ctx, line.ID.String(), point, r) })
		if err != nil && len(roles) > 1 && problem.Of(err).Code == "DS-NO-DISK" {
			continue
		}
		if err != nil {
			for _, p := range out {
				p.Close()
			}
			return nil, err
		}
		out[r] = p
	}
	return out, nil
}

// Size returns the disk's size in bytes.
func (p *pointDisk) Size() int64 { return p.size }

// ReadAt implements io.ReaderAt. What fails is tried again once, on a disk that is opened after that.
func (p *pointDisk) ReadAt(b []byte, off int64) (int, error) {
	d, err := p.use()
	if err != nil {
		return 0, err
	}
	n, err := d.ReadAt(b, off)
	if n < len(b) && reopeningHelps(err) {
		d, err = p.exchange(d, err, p.failures())
		if err != nil {
			return n, err
		}
		n, err = d.ReadAt(b, off)
	}
	p.leave(d)
	return n, err
}

// reopeningHelps reports whether a disk that is opened anew may give what this one did not. A damaged block stays as it is.
func reopeningHelps(err error) bool {
	return err == nil || !errors.Is(err, io.EOF) && problem.Of(err).Exit != problem.Damaged
}

// use returns the present disk; the caller has to leave it.
func (p *pointDisk) use() (*sharedDisk, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return nil, fmt.Errorf("read a disk: %w", fs.ErrClosed)
	}
	p.now.users++
	return p.now, nil
}

// failures returns how often it could not be opened anew.
func (p *pointDisk) failures() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// leave closes a disk when nobody else uses it.
func (p *pointDisk) leave(d *sharedDisk) {
	p.mu.Lock()
	d.users--
	last := d.users == 0
	p.mu.Unlock()
	if last {
		_ = d.Close() // it was read from only
	}
}

// exchange leaves the disk that failed, and returns the one in its place for the caller to use: it opens it, unless somebody else did.
// failures is what p.failures was when the caller began to wait: those who wait while somebody tries in vain do not try again one after
// the other.
func (p *pointDisk) exchange(bad *sharedDisk, why error, failures int) (*sharedDisk, error) {
	defer p.leave(bad)
	p.opening.Lock()
	defer p.opening.Unlock()
	p.mu.Lock()
	now, failed, last := p.now, p.failed > failures, p.why
	p.mu.Unlock()
	if now != bad {
		return p.use()
	}
	if failed {
		return nil, errors.Join(why, last)
	}
	opened, err := p.openAgain()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failed, p.why = p.failed+1, err
		return nil, errors.Join(why, err)
	}
	d := &sharedDisk{opened, 1}
	if p.now != nil { // it was not closed meanwhile
		p.now.users-- // which is not its last: bad is left behind this
		p.now = d
		d.users++
	}
	return d, nil
}

func (p *pointDisk) openAgain() (dbusapi.Disk, error) {
	d, err := p.open()
	if err == nil && d.Size() != p.size {
		err = errors.Join(fmt.Errorf("the disk has %d bytes now, and had %d", d.Size(), p.size), d.Close())
	}
	return d, err
}

// Close closes the disk when nobody reads it any more. No read may begin after that.
func (p *pointDisk) Close() {
	p.mu.Lock()
	d := p.now
	p.now = nil
	p.mu.Unlock()
	if d != nil {
		p.leave(d)
	}
}
