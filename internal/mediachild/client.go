package mediachild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"disksync/internal/remotedisk"
	"disksync/volume"
	"disksync/volume/detect"
)

// Options configures an Open. The zero value is ready for use.
type Options struct {
	// Command is the program that calls Serve, its name for itself, and its arguments; nil: this program, with the argument "read-media".
	Command []string
	// Timeout is how long the child may take for one answer; 0: two minutes, as drives try for long to read a bad sector, and ten for the map
	// of a disk.
	Timeout time.Duration
	// Log is told what restrictions of the child this system lacks, how a child ended, and why a Map is not known; nil: nobody is.
	Log *slog.Logger
}

// Argument is what this program is started with as a child.
const Argument = "read-media"

const (
	readTime = 2 * time.Minute
	mapTime  = 10 * time.Minute
)

// orElse returns the options with the defaults for what is not set.
func (o Options) orElse(timeout time.Duration) Options {
	if o.Command == nil {
		o.Command = []string{"/proc/self/exe", os.Args[0], Argument}
	}
	if o.Timeout == 0 {
		o.Timeout = timeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// maxStarts is how many children one device may use up.
const maxStarts = 2

// Device is a device, an image file or a disk that a child reads. It is safe for concurrent use.
type Device struct {
	name    string
	start   func() (*child, error)
	close   func() error
	o       Options
	volumes []*Volume
	notes   []string
	closed  atomic.Bool

	mu     sync.Mutex // held for a whole question and answer
	starts int
	batch  uint32
	dead   error // why there will be no other child

	living sync.Mutex // taken after mu, or alone to end the child that is asked
	child  *child     // nil: there is none
}

// Open starts a child for a block device, or for a regular file with the image of one. The error is what the child found, such as
// volume.ErrOther when it holds no file system, or says that the device cannot be opened. The caller closes the Device.
func Open(path string, o Options) (*Device, error) {
	f, err := openDevice(path)
	if err != nil {
		return nil, err
	}
	o = o.orElse(readTime)
	return open(&Device{name: path, start: func() (*child, error) { return start(f, o.Command) }, close: f.Close, o: o})
}

// OpenDisk is Open for a disk that this process can read, under a name for people. The child gets a socket on which it may read it; how long
// that takes does not count as its time. The end of ctx closes the Device. The caller closes it before the disk; Close waits for a read of the
// disk that is under way.
func OpenDisk(ctx context.Context, name string, disk remotedisk.Source, o Options) (*Device, error) {
	o = o.orElse(readTime)
	d := &Device{name: name, start: func() (*child, error) { return startOn(disk, o.Command) }, o: o}
	stop := context.AfterFunc(ctx, func() { d.Close() })
	d.close = func() error {
		stop()
		return nil
	}
	return open(d)
}

func open(d *Device) (*Device, error) {
	d.mu.Lock()
	c, err := d.begin()
	d.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.notes = c.notes
	for i, v := range c.volumes {
		d.volumes = append(d.volumes, &Volume{d, i, v})
	}
	return d, nil
}

// Volumes returns the volumes of the device. They end with it.
func (d *Device) Volumes() []*Volume { return d.volumes }

// Notes says what of the device cannot be read, for people.
func (d *Device) Notes() []string { return d.notes }

// Close ends the child. Who is reading then gets os.ErrClosed, and so does who closes the Device again.
func (d *Device) Close() error {
	was := d.closed.Swap(true)
	d.living.Lock()
	if d.child != nil {
		d.child.kill()
	}
	d.living.Unlock()
	d.mu.Lock() // whoever asked is told soon
	defer d.mu.Unlock()
	d.drop()
	if was {
		return os.ErrClosed
	}
	return d.close()
}

// begin starts a child, with d.mu held. Its failure is the last one.
func (d *Device) begin() (*child, error) {
	d.starts++
	c, err := d.start()
	if err != nil {
		return nil, err
	}
	d.living.Lock()
	d.child = c
	if d.closed.Load() {
		c.kill()
	}
	d.living.Unlock()
	err = c.first(opVolumes, "the program that reads its file systems", d.o, maxAnswer, c.introduction)
	if err != nil {
		d.drop()
		if !c.told(err) {
			err = volume.Damaged("%v", err)
		}
		return nil, err
	}
	return c, nil
}

func (d *Device) drop() {
	d.living.Lock()
	defer d.living.Unlock()
	if d.child != nil {
		d.child.release()
		d.child = nil
	}
}

// do runs a conversation with the child, of which there is one at a time. An error of it, unlike one that the child tells, ends the child; the
// next conversation gets another.
func (d *Device) do(talk func(c *child) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return os.ErrClosed
	}
	if d.child == nil && d.dead == nil {
		d.dead = d.again()
	}
	if d.dead != nil {
		return d.dead
	}
	c := d.child
	if c.loan != nil {
		c.loan.failed.Store(nil)
	}
	err := talk(c)
	if err == nil || c.told(err) || err == os.ErrClosed { // the file's, not the socket's
		return err
	}
	why := c.why(err)
	c.kill()
	d.drop()
	if d.closed.Load() {
		return os.ErrClosed
	}
	d.o.Log.Warn("the program that reads a medium was given up", "medium", d.name, "it", why)
	err = volume.Damaged("the program that reads its file systems %s", why)
	if d.starts >= maxStarts {
		d.dead = err
	}
	return err
}

// again starts another child and makes sure that it sees what the first one saw.
func (d *Device) again() error {
	c, err := d.begin()
	if err != nil {
		return err
	}
	same := slices.EqualFunc(d.volumes, c.volumes, func(a *Volume, b described) bool { return a.described == b })
	if !same {
		c.kill()
		d.drop()
		return volume.Damaged("its file systems are not what they were")
	}
	return nil
}

// request is a conversation of one question.
func (d *Device) request(m *message, read func(a *answer) error) error {
	return d.do(func(c *child) error { return d.exchange(c, m, read) })
}

func (d *Device) exchange(c *child, m *message, read func(a *answer) error) error {
	if err := c.ask(m, d.o.Timeout); err != nil {
		return err
	}
	a, err := c.answer(d.o.Timeout, maxAnswer)
	if err != nil {
		return err
	}
	told := a.err()
	if told == nil || len(a.b) > 0 {
		if err := read(a); err != nil {
			return err
		}
	}
	if !a.ok() {
		return errNonsense
	}
	return told
}

// Volume is one file system of the device.
type Volume struct {
	d     *Device
	index int
	described
}

var _ volume.Volume = (*Volume)(nil)

// Name returns its place on the device for people, as "partition 1"; "" when it is the whole device.
func (v *Volume) Name() string { return detect.Found{Partition: v.partition}.Name() }

// Partition returns the number of the partition that it is; 0 when it is the whole device.
func (v *Volume) Partition() int { return v.partition }

// Info implements volume.Volume.
func (v *Volume) Info() volume.Info { return v.info }

// ReadDir implements volume.Tree.
func (v *Volume) ReadDir(dir string) ([]volume.Entry, error) {
	m := &message{}
	m.u8(opList)
	m.u8(byte(v.index))
	m.text(dir, maxRequest/2)
	var entries []volume.Entry
	err := v.d.request(m, func(a *answer) (err error) {
		entries, err = readEntries(a)
		return err
	})
	return entries, err
}

func readEntries(a *answer) (entries []volume.Entry, err error) {
	n := a.u32()
	if n > volume.MaxEntries {
		return nil, errNonsense
	}
	for range n {
		e := volume.Entry{Dir: a.u8() != 0, Size: a.i64(), Name: a.text(volume.MaxName)}
		if a.bad || e.Size < 0 || e.Size > volume.MaxFile || !volume.ValidName(e.Name) {
			return nil, errNonsense
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Open implements volume.Tree.
func (v *Volume) Open(name string) (volume.File, error) {
	f := &file{v: v, name: name}
	err := v.d.do(f.open)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// file is an open file. What names it belongs to one child; another is asked to open it again.
type file struct {
	v      *Volume
	name   string
	size   int64
	child  *child // that has it open, with id; both guarded by v.d.mu
	id     uint32
	closed bool
}

// open has the child open the file, unless it has.
func (f *file) open(c *child) error {
	if f.closed {
		return os.ErrClosed
	}
	if f.child == c {
		return nil
	}
	m := &message{}
	m.u8(opOpen)
	m.u8(byte(f.v.index))
	m.text(f.name, maxRequest/2)
	var id uint32
	var size int64
	err := f.v.d.exchange(c, m, func(a *answer) error {
		id, size = a.u32(), a.i64()
		if size < 0 || size > volume.MaxFile || f.child != nil && size != f.size {
			return errNonsense
		}
		return nil
	})
	if err != nil {
		return err
	}
	if f.child == nil {
		f.size = size // which nobody else knows yet
	}
	f.child, f.id = c, id
	return nil
}

func (f *file) Size() int64 { return f.size }

// Close closes the file where it is open; for that no child is started.
func (f *file) Close() error {
	d := f.v.d
	d.mu.Lock()
	known := !f.closed && d.child != nil && f.child == d.child
	f.closed = true
	d.mu.Unlock()
	if !known {
		return nil
	}
	m := &message{}
	m.u8(opClose)
	m.u32(f.id)
	return d.do(func(c *child) error {
		if f.child != c {
			return nil
		}
		return d.exchange(c, m, func(*answer) error { return nil })
	})
}

func (f *file) Place(off int64) int64 {
	at := int64(-1)
	err := f.v.d.do(func(c *child) error {
		if err := f.open(c); err != nil {
			return err
		}
		m := &message{}
		m.u8(opPlace)
		m.u32(f.id)
		m.i64(off)
		return f.v.d.exchange(c, m, func(a *answer) error {
			at = max(a.i64(), -1)
			return nil
		})
	})
	if err != nil {
		return -1
	}
	return at
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: before the start of the file", off)
	}
	want := p
	if rest := f.size - off; int64(len(p)) > rest {
		want = p[:max(rest, 0)]
	}
	if len(want) > 0 {
		err = f.v.d.do(func(c *child) error {
			if err := f.open(c); err != nil {
				return err
			}
			n, err = f.read(c, want, off)
			return err
		})
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if n < len(want) {
			return n, volume.Damaged("%s ends at %d bytes, though it was said to have %d", f.name, off+int64(n), f.size)
		}
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// read fills p. While one piece is copied from the memory that is shared, the child reads the next ones. Who could not be trusted to leave alone
// what it has answered may still write there: what is copied is what counts, and it is compared with digests afterwards.
func (f *file) read(c *child, p []byte, off int64) (n int, err error) {
	d := f.v.d
	d.batch++
	pieces := (len(p) + slotSize - 1) / slotSize
	var told error
	asked := 0
	for i := range pieces {
		for ; asked < pieces && asked < i+slots; asked++ {
			if told != nil {
				break
			}
			at := asked * slotSize
			m := &message{}
			m.u8(opRead)
			m.u32(f.id)
			m.i64(off + int64(at))
			m.u32(uint32(min(len(p)-at, slotSize)))
			m.u8(byte(asked % slots))
			m.u32(d.batch)
			if err := c.ask(m, d.o.Timeout); err != nil {
				return n, err
			}
		}
		if i == asked {
			break
		}
		a, err := c.answer(d.o.Timeout, maxAnswer)
		if err != nil {
			return n, err
		}
		pieceErr, got := a.err(), int(a.u32())
		part := p[i*slotSize : min((i+1)*slotSize, len(p))]
		if !a.ok() || got > len(part) || pieceErr == nil && got < len(part) {
			return n, errNonsense
		}
		if told == nil {
			copy(part[:got], c.memory[i%slots*slotSize:])
			n += got
			told = pieceErr
		}
	}
	return n, told
}
