package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// DiskView is a disk to be read at random. It is safe for concurrent use.
type DiskView struct {
	disk   io.ReaderAt
	size   int64
	opened []func() error

	mu      sync.Mutex
	closed  bool
	reading sync.WaitGroup // added to with mu held, while it is not closed
}

// Size returns the size of the disk in bytes.
func (v *DiskView) Size() int64 { return v.size }

// ReadAt implements io.ReaderAt. A block that is not what the backup had gives a Problem of status Damaged, and will not be any better when
// the disk is opened again. After Close the error is fs.ErrClosed.
func (v *DiskView) ReadAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return 0, fmt.Errorf("read a disk: %w", fs.ErrClosed)
	}
	v.reading.Add(1)
	v.mu.Unlock()
	defer v.reading.Done()
	n, err := v.disk.ReadAt(p, off)
	return n, explainRead(err)
}

func explainRead(err error) error {
	const what, safe = "a part of the disk cannot be read", "nothing was changed"
	if errors.Is(err, layer.ErrCorrupt) {
		return problem.New("DS-SERVER-DAMAGED", problem.Damaged, err, what+": the Synchronizer's copy is damaged", safe,
			"tell the administrator; where the VM is on this machine, `disksyncmgr verify` says whether its own disk is to blame")
	}
	return syncclient.Explain(err, what, safe)
}

// Close closes what the disk is read from, as soon as the reads that are under way have ended. Closing it again does nothing.
func (v *DiskView) Close() error {
	v.mu.Lock()
	closed := v.closed
	v.closed = true
	v.mu.Unlock()
	v.reading.Wait()
	if closed {
		return nil
	}
	var first error
	for _, c := range slices.Backward(v.opened) {
		if err := c(); first == nil {
			first = err
		}
	}
	return first
}

// OpenDisk opens a disk of a VM for reading: as it is now, when point is 0, or as a point of its backups has it, of which is got what is
// read. ctx must last as long as the disk is read.
func (e *Engine) OpenDisk(ctx context.Context, vm string, point image.Version, r image.Role) (*DiskView, error) {
	v := &DiskView{}
	letGo := e.store.Hold()
	v.opened = append(v.opened, letGo)
	var err error
	if point == 0 {
		err = e.openPresent(v, vm, r)
	} else {
		err = e.openPoint(ctx, v, vm, point, r)
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

func noDisk(vm string, r image.Role) error {
	return problem.New("DS-NO-DISK", problem.NotFound, nil, fmt.Sprintf("VM %s has no %s disk", vm, r), "", "`disksyncmgr vms` shows the disks of VMs")
}

func (e *Engine) openPresent(v *DiskView, name string, r image.Role) error {
	vm, err := e.vm(name)
	if err != nil {
		return err
	}
	if err := e.store.Idle(vm, "looked into as it is now"); err != nil {
		return err
	}
	d, ok := vm.Current.Disk(r)
	if !ok {
		return noDisk(vm.Name, r)
	}
	disk, err := e.store.OpenView(d.Leaf)
	if err != nil {
		return err
	}
	v.disk, v.size = disk, disk.Size()
	v.opened = append(v.opened, disk.Close)
	return nil
}

func (e *Engine) openPoint(ctx context.Context, v *DiskView, name string, point image.Version, r image.Role) error {
	c, reg, err := e.connectWithin(nil, true)
	if err != nil {
		return err
	}
	v.opened = append(v.opened, func() error { c.Close(); return nil })
	l, err := e.findLine(ctx, c, name)
	if err != nil {
		return err
	}
	if l, err = c.Backup(ctx, l.ID); err != nil {
		return explainLines(err)
	}
	if _, err := choosePoint(l, point); err != nil {
		return err
	}
	m, err := e.pointManifest(ctx, c, reg, l, point)
	if err != nil {
		return err
	}
	d, ok := m.Manifest().Disk(r)
	if !ok {
		return noDisk(l.Name, r)
	}
	return e.openState(ctx, v, c, d)
}

// openState opens a disk of a manifest: from the last state on the way that is installed, and what lies behind that from the
// Synchronizer.
func (e *Engine) openState(ctx context.Context, v *DiskView, c *syncclient.Client, d *image.Disk) error {
	var from *deploy.View
	layers := d.Layers
	for i, l := range slices.Backward(d.Layers) {
		ok, err := e.store.Installed(l.To)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if from, err = e.store.OpenView(image.VHDUUID(l.To)); err != nil {
			return err
		}
		v.opened = append(v.opened, from.Close)
		layers = d.Layers[i+1:]
		break
	}
	if len(layers) == 0 {
		v.disk, v.size = from, from.Size()
		return nil
	}
	var path []layer.Source
	for _, l := range layers {
		x, err := c.Index(ctx, l)
		if err != nil {
			return syncclient.Explain(err, "cannot read the point", "nothing was changed")
		}
		path = append(path, layer.Source{Index: x, R: c.ReaderAt(ctx, l)})
	}
	if err := durable.MakeDir(e.fsys, spoolDir, 0o700); err != nil {
		return err
	}
	scratch, err := durable.Unnamed(filepath.Join(e.dir, spoolDir))
	if err != nil {
		return err
	}
	v.opened = append(v.opened, scratch.Close)
	var rd *layer.Reader
	if from != nil {
		rd, err = layer.NewReaderFrom(from, layers[0].From, path, scratch)
	} else {
		rd, err = layer.NewReader(path, scratch)
	}
	if err != nil {
		return err
	}
	v.opened = append(v.opened, func() error { rd.Close(); return nil })
	v.disk, v.size = rd, rd.Size()
	return nil
}
