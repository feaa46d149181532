package mediachild

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"disksync/diskmap"
	"disksync/internal/remotedisk"
	"disksync/volume"
	"disksync/volume/detect"
)

// What the parent gives the child, by the numbers of the descriptors.
const (
	deviceFD = 3
	socketFD = 4
	memoryFD = 5
)

// Readers make sense of a device.
type Readers struct {
	// Volumes finds the volumes of a device, as detect.Volumes does.
	Volumes func(*volume.Device) ([]detect.Found, []string, error)
	// Map finds out what of a disk is free, as diskmap.Scan does.
	Map func(diskmap.Disk) (*diskmap.Map, error)
}

// Serve is the life of a child: it gives up its rights, and answers what is asked of the device until the parent goes away, which ends the
// process. It returns only when it was not started as a child.
func Serve(r Readers) error {
	var st unix.Stat_t
	for _, fd := range []int{deviceFD, socketFD, memoryFD} {
		if err := unix.Fstat(fd, &st); err != nil {
			return errNoParent
		}
		unix.CloseOnExec(fd)
	}
	device, err := given()
	if err != nil || st.Size != sharedBytes {
		return errNoParent
	}
	shared, err := unix.Mmap(memoryFD, 0, sharedBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	s := &server{device: device, readers: r, memory: shared, files: map[uint32]volume.File{}}
	s.run(confine())
	return nil
}

// given returns what there is to read: what is open, or what the parent reads for the child.
func given() (*volume.Device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(deviceFD, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		d, err := remotedisk.Open(descriptor(deviceFD))
		if err != nil {
			return nil, err
		}
		return volume.NewDevice(d, d.Size()), nil
	}
	size, err := unix.Seek(deviceFD, 0, io.SeekEnd)
	return volume.NewDevice(descriptor(deviceFD), size), err
}

var errNoParent = errors.New("this command is for disksyncmgr itself, which starts it to read media")

// descriptor reads and writes with nothing between it and the system call.
type descriptor int

func (d descriptor) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; ; {
		n, err := unix.Pread(int(d), p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if n > 0 {
			done += n
		}
		switch {
		case done == len(p):
			return done, nil
		case err != nil:
			return done, &fs.PathError{Op: "read", Path: "the device", Err: err}
		case n == 0:
			return done, io.EOF
		}
	}
}

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (d descriptor) Write(p []byte) (int, error) {
	for done := 0; ; {
		n, err := unix.Write(int(d), p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if done += n; done == len(p) {
			return done, nil
		}
	}
}

type server struct {
	device  *volume.Device
	readers Readers
	memory  []byte
	volumes []detect.Found
	files   map[uint32]volume.File
	next    uint32
	failed  uint32 // batch of reads of which one failed
}

// run answers. Whatever ends the conversation ends the process: whoever asked is gone, even while an answer is being worked on.
func (s *server) run(missing []string) {
	requests := make(chan []byte, slots)
	go func() {
		for {
			b, err := receive(descriptor(socketFD), maxRequest)
			if err != nil {
				os.Exit(0)
			}
			requests <- b
		}
	}()
	reply := func(m *message) {
		if err := send(descriptor(socketFD), m); err != nil {
			os.Exit(0)
		}
	}
	hello := &message{b: []byte(magic)}
	hello.u8(version)
	hello.list(missing)
	reply(hello)
	for b := range requests {
		m := &message{}
		s.answer(&answer{b: b}, m)
		reply(m)
	}
}

// introduce opens the volumes and describes them.
func (s *server) introduce(m *message) {
	found, notes, err := s.readers.Volumes(s.device)
	s.volumes = found[:min(len(found), maxVolumes)]
	m.err(err)
	m.list(notes)
	m.u8(byte(len(s.volumes)))
	for _, v := range s.volumes {
		i := v.Info()
		m.u16(uint16(v.Partition))
		m.text(i.Type, maxText)
		m.text(i.Label, maxText)
		m.text(i.ID, maxText)
		m.text(i.Note, maxText)
		m.u32(uint32(i.BlockSize))
	}
}

func (s *server) answer(a *answer, m *message) {
	switch op := a.u8(); op {
	case opVolumes:
		s.introduce(m)
	case opMap:
		free, err := s.readers.Map(s.device)
		m.err(err)
		if err == nil {
			m.tail = free.Encode()
		}
	case opList:
		v, name := s.volume(a), a.text(maxRequest)
		var entries []volume.Entry
		err := errNoSuch
		if v != nil {
			entries, err = v.ReadDir(name)
		}
		m.err(err)
		writeEntries(m, entries)
	case opOpen:
		v, name := s.volume(a), a.text(maxRequest)
		id, f, err := s.openFile(v, name)
		m.err(err)
		if err == nil {
			m.u32(id)
			m.i64(f.Size())
		}
	case opRead:
		n, err := s.read(a)
		m.err(err)
		m.u32(uint32(n))
	case opPlace:
		f, off := s.files[a.u32()], a.i64()
		m.u8(fine)
		if f == nil {
			m.i64(-1)
		} else {
			m.i64(f.Place(off))
		}
	case opClose:
		id := a.u32()
		if f := s.files[id]; f != nil {
			delete(s.files, id)
			f.Close()
		}
		m.u8(fine)
	default:
		os.Exit(1) // the parent is another program
	}
}

var errNoSuch = fmt.Errorf("mediachild: internal error: no such file or volume: %w", fs.ErrInvalid)

func (s *server) volume(a *answer) volume.Volume {
	if i := int(a.u8()); i < len(s.volumes) {
		return s.volumes[i]
	}
	return nil
}

func writeEntries(m *message, entries []volume.Entry) {
	entries = entries[:min(len(entries), volume.MaxEntries)]
	m.u32(uint32(len(entries)))
	for _, e := range entries {
		dir := byte(0)
		if e.Dir {
			dir = 1
		}
		m.u8(dir)
		m.i64(e.Size)
		m.text(e.Name, volume.MaxName)
	}
}

func (s *server) openFile(v volume.Volume, name string) (uint32, volume.File, error) {
	switch {
	case v == nil:
		return 0, nil, errNoSuch
	case len(s.files) == maxFiles:
		return 0, nil, fmt.Errorf("%w: more than %d open files", volume.ErrLimit, maxFiles)
	}
	f, err := v.Open(name)
	if err != nil {
		return 0, nil, err
	}
	s.next++
	s.files[s.next] = f
	return s.next, f, nil
}

func (s *server) read(a *answer) (int, error) {
	f, off, n, slot, batch := s.files[a.u32()], a.i64(), int(a.u32()), int(a.u8()), a.u32()
	switch {
	case f == nil || n > slotSize || slot >= slots:
		return 0, errNoSuch
	case batch == s.failed:
		return 0, errNotTried
	}
	n, err := f.ReadAt(s.memory[slot*slotSize:][:n], off)
	if err != nil {
		s.failed = batch
	}
	return n, err
}

// settle makes the runtime take what it takes once for all, as long as it may.
func settle() {
	t := time.NewTimer(time.Millisecond)
	<-t.C
}
