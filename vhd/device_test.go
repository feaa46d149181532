package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"disksync/vhd"
)

const deviceSize = 21*testBlock + 5*512

// newDevice returns a device full of what was there before.
func newDevice() *memFile {
	b := noise(deviceSize, 42)
	return &memFile{data: b, synced: bytes.Clone(b)}
}

func openDevice(t testing.TB, f *memFile) *vhd.Disk {
	t.Helper()
	d, err := vhd.OpenDisk(f, f.size(), nil, vhd.Device())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDevice: on a block device the footer stays in the last sector, nothing of what the device held before shows, and a device
// that is full says so and stays good. The power is cut at every step.
func TestDevice(t *testing.T) {
	const size = 25*testBlock + 512 // more than the device has
	start := newDevice()
	o := vhd.CreateOptions{Size: size, BlockSize: testBlock, UUID: newUUID(1), DeviceSize: deviceSize}
	if err := vhd.Create(start, o); err != nil {
		t.Fatal(err)
	}
	p := noise(3*testBlock, 2)
	full := false
	eachCrash(t, start.data, func(f *memFile) error {
		d := openDevice(t, f)
		for off := int64(512); off < size-int64(len(p)); off += int64(len(p)) {
			if _, err := d.WriteAt(p, off); errors.Is(err, vhd.ErrDeviceFull) {
				full = true
				break
			} else if err != nil {
				return err
			}
			if err := d.Sync(); err != nil {
				return err
			}
		}
		if err := d.Sync(); err != nil {
			return err
		}
		return d.Resize(context.Background(), size+testBlock, vhd.ResizeOptions{})
	}, func(cut int, f *memFile) {
		if f.size() != deviceSize {
			t.Fatalf("cut %d: the device has %d bytes now", cut, f.size())
		}
		m := openImage(t, f)
		got := content(t, f)
		want := make([]byte, len(got))
		for off := 512; off < size-len(p); off += len(p) {
			copy(want[off:], p)
		}
		for i := 0; i < len(got); i += 512 {
			if n := min(i+512, len(got)); !bytes.Equal(got[i:n], want[i:n]) && !bytes.Equal(got[i:n], make([]byte, n-i)) {
				t.Fatalf("cut %d: sector %d of %d holds neither what was written nor zeros", cut, i/512, m.Size()/512)
			}
		}
	})
	if !full {
		t.Error("the device was never full")
	}
}

func TestConvertToDevice(t *testing.T) {
	want := make([]byte, 9*testBlock+1024)
	copy(want[testBlock+700:], noise(testBlock, 3))
	src := vhd.Whole(bytes.NewReader(want), int64(len(want)))
	for _, o := range []vhd.CreateOptions{{Type: vhd.Fixed}, {BlockSize: testBlock}} {
		o.UUID, o.DeviceSize = newUUID(1), deviceSize
		f := newDevice()
		if err := vhd.Convert(context.Background(), f, src, o, vhd.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if f.size() != deviceSize || !bytes.Equal(content(t, f), want) {
			t.Errorf("%s: content differs", o.Type)
		}
		d := openDevice(t, f)
		for _, size := range []int64{12*testBlock + 512, 5 * testBlock, 20 * testBlock} {
			if err := d.Resize(context.Background(), size, vhd.ResizeOptions{}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, f), resized(want, size)) {
				t.Errorf("%s: content differs at size %d", o.Type, size)
			}
		}
		if o.Type == vhd.Fixed {
			if err := d.Resize(context.Background(), 22*testBlock, vhd.ResizeOptions{}); !errors.Is(err, vhd.ErrDeviceFull) {
				t.Errorf("too large: %v", err)
			}
		}
	}
	o := vhd.CreateOptions{Type: vhd.Fixed, Size: deviceSize, DeviceSize: deviceSize}
	if err := vhd.Create(newDevice(), o); !errors.Is(err, vhd.BadSize) {
		t.Errorf("no room for the footer: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	parent := &vhd.Parent{UUID: newUUID(9), Path: "p.vhd"}
	for name, c := range map[string]struct {
		o    vhd.CreateOptions
		want vhd.Fault
	}{
		"no size":                    {vhd.CreateOptions{}, vhd.BadSize},
		"odd size":                   {vhd.CreateOptions{Size: 513}, vhd.BadSize},
		"odd unit":                   {vhd.CreateOptions{Size: 512, SizeUnit: 100}, vhd.BadSize},
		"larger than a table can be": {vhd.CreateOptions{Size: vhd.MaxDynamicSize + 512}, vhd.BadSize},
		"block of three sectors":     {vhd.CreateOptions{Size: 512, BlockSize: 1536}, vhd.BadBlockSize},
		"too many blocks":            {vhd.CreateOptions{Size: vhd.MaxDynamicSize, BlockSize: 4096}, vhd.BadBlockSize},
		"too many entries":           {vhd.CreateOptions{Size: 512, MaxTableEntries: 1 << 31}, vhd.BadBlockSize},
		"differencing, no parent":    {vhd.CreateOptions{Size: 512, Type: vhd.Differencing}, vhd.BadType},
		"dynamic with a parent":      {vhd.CreateOptions{Size: 512, Type: vhd.Dynamic, Parent: parent}, vhd.BadType},
		"unknown type":               {vhd.CreateOptions{Size: 512, Type: 6}, vhd.BadType},
	} {
		f := &memFile{}
		if err := vhd.Create(f, c.o); !errors.Is(err, c.want) || f.size() != 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, f.size())
		}
	}
	// A fixed disk may be larger than a table can address.
	m := openImage(t, create(t, vhd.CreateOptions{Size: 512, SizeUnit: 1 << 20, Type: vhd.Fixed}))
	if m.Size() != 1<<20 {
		t.Errorf("size %d", m.Size())
	}
}

func TestSnapshotRefuses(t *testing.T) {
	parent := base(t, 1, 4*testBlock)
	nilUUID := openImage(t, create(t, vhd.CreateOptions{Size: 4 * testBlock}))
	for name, c := range map[string]struct {
		parent *vhd.Image
		o      vhd.CreateOptions
		want   vhd.Fault
	}{
		"smaller":          {parent, vhd.CreateOptions{Size: 512, UUID: newUUID(2)}, vhd.BadSize},
		"no uuid":          {parent, vhd.CreateOptions{}, vhd.NilUUID},
		"parent's uuid":    {parent, vhd.CreateOptions{UUID: newUUID(1)}, vhd.Cycle},
		"parent has no id": {nilUUID, vhd.CreateOptions{UUID: newUUID(2)}, vhd.NilUUID},
	} {
		f := &memFile{}
		if err := vhd.Snapshot(f, c.parent, "p.vhd", c.o); !errors.Is(err, c.want) || f.size() != 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, f.size())
		}
	}
	raw := &memFile{}
	if err := vhd.Snapshot(raw, vhd.Raw(bytes.NewReader(nil), 512), "p.raw", vhd.CreateOptions{UUID: newUUID(2)}); err != nil {
		t.Error(err)
	}
	if m := openImage(t, raw); !m.ParentUUID().IsZero() || m.Type() != vhd.Differencing {
		t.Errorf("child of a raw disk: %v", m)
	}
}
