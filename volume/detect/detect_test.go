package detect_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"disksync/volume"
	"disksync/volume/detect"
)

// fake is a file system whose mark is the first bytes of the device; what follows says what is wrong with it.
type fake struct {
	kind string
	err  error // of its root
}

func (f *fake) Info() volume.Info                { return volume.Info{Type: f.kind} }
func (f *fake) Open(string) (volume.File, error) { return nil, volume.NotExist("open", "x") }
func (f *fake) ReadDir(string) ([]volume.Entry, error) {
	return nil, f.err
}

func reader(kind string) detect.Reader {
	return func(d *volume.Device) (volume.Volume, error) {
		b := make([]byte, 8)
		if _, err := d.ReadAt(b, 0); err != nil {
			return nil, err
		}
		mark, state := string(b[:4]), b[4]
		switch {
		case mark != kind && !(mark == "both" && (kind == "udf " || kind == "iso ")):
			return nil, volume.ErrOther
		case state == 'd':
			return nil, volume.Damaged("%s is damaged", kind)
		case state == 'r' && kind != "iso ":
			return &fake{kind, volume.Damaged("no root")}, nil
		}
		return &fake{kind, nil}, nil
	}
}

func device(b []byte) *volume.Device { return volume.NewDevice(bytes.NewReader(b), int64(len(b))) }

// marked is a device of 64 KiB that begins with a mark.
func marked(mark string) []byte {
	b := make([]byte, 64<<10)
	copy(b, mark)
	return b
}

// TestOpen: of several kinds the first counts that can be read; when none can, it is said what was seen.
func TestOpen(t *testing.T) {
	t.Parallel()
	luks := marked("LUKS\xba\xbe")
	for _, c := range []struct {
		disk []byte
		want string // kind
		err  error
		says string
	}{
		{marked("udf "), "udf ", nil, ""},
		{marked("both"), "udf ", nil, ""},
		{marked("bothr"), "iso ", nil, ""},
		{marked("bothd"), "", volume.ErrDamaged, "udf  is damaged"},
		{marked("iso d"), "", volume.ErrDamaged, "iso  is damaged"},
		{marked("udf r"), "", volume.ErrDamaged, "no root"},
		{make([]byte, 64<<10), "", volume.ErrOther, "it is blank"},
		{marked("what is this"), "", volume.ErrOther, "nothing is recognised"},
		{luks, "", volume.ErrOther, "it has the marks of LUKS"},
	} {
		v, err := detect.OpenWith(device(c.disk), reader("udf "), reader("iso "))
		switch {
		case c.err == nil && (err != nil || v.Info().Type != c.want):
			t.Errorf("%q: %v, %v", c.disk[:8], v, err)
		case c.err != nil && (!errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%q: %v, want %v: %s", c.disk[:8], err, c.err, c.says)
		}
	}
	bad := volume.NewDevice(failing{}, 1<<20)
	if _, err := detect.Open(bad); !errors.Is(err, syscall.EIO) {
		t.Errorf("a device that cannot be read: %v", err)
	}
	if _, _, err := detect.Volumes(bad); !errors.Is(err, syscall.EIO) {
		t.Errorf("a device that cannot be read: %v", err)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

var _ io.ReaderAt = failing{}

// table is a disk with partitions of 64 KiB.
func table(parts ...[]byte) []byte {
	b := make([]byte, (1+len(parts))<<16)
	b[510], b[511] = 0x55, 0xaa
	for i, p := range parts {
		e := b[446+16*i:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], uint32((1+i)<<7))
		binary.LittleEndian.PutUint32(e[12:], 1<<7)
		copy(b[(1+i)<<16:], p)
	}
	return b
}

// TestVolumes: a device gives the volumes of its partitions, and itself.
func TestVolumes(t *testing.T) {
	t.Parallel()
	both := table(marked("udf "), marked("iso "))
	copy(both, "iso ")
	for _, c := range []struct {
		name  string
		disk  []byte
		want  string // kinds and names of volumes
		notes int
		says  string // of the error
	}{
		{"the device itself", marked("udf "), "udf :", 0, ""},
		{"partitions", table(marked("udf "), marked("iso ")), "udf :partition 1 iso :partition 2", 0, ""},
		{"both", both, "iso : udf :partition 1 iso :partition 2", 0, ""},
		{"one that holds something else", table(marked("ext"), marked("iso ")), "iso :partition 2", 0, ""},
		{"a damaged one", table(marked("udf d"), marked("iso ")), "iso :partition 2", 1, ""},
		{"damaged ones only", table(marked("udf d"), marked("iso d")), "", 0, "partition 2: the file system is damaged: iso"},
		{"nothing", make([]byte, 1<<16), "", 0, "blank"},
	} {
		found, notes, err := detect.VolumesWith(device(c.disk), reader("udf "), reader("iso "))
		var got []string
		for _, f := range found {
			got = append(got, f.Info().Type+":"+f.Name())
		}
		if s := strings.Join(got, " "); s != c.want || len(notes) != c.notes {
			t.Errorf("%s: %q, notes %q, %v", c.name, s, notes, err)
		}
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
