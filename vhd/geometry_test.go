package vhd_test

import (
	"bytes"
	"errors"
	"testing"

	"disksync/vhd"
)

// TestByGeometry: the geometry counts when it is asked for, and only for reading.
func TestByGeometry(t *testing.T) {
	const size = 40 << 20 // the geometry of which is a little smaller, as for nearly all sizes
	small := vhd.GeometryFor(size).Size()
	if small >= size {
		t.Fatalf("geometry of %d bytes", small)
	}
	f := create(t, vhd.CreateOptions{Size: size, UUID: newUUID(1)})
	d, err := vhd.OpenDisk(f, f.size(), nil)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if _, err := d.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		geometry vhd.Geometry
		want     int64
		fault    error
	}{
		{"as it is made", vhd.GeometryFor(size), small, nil},
		{"the largest says nothing", vhd.Geometry{Cylinders: 65535, Heads: 16, Sectors: 255}, size, nil},
		{"none", vhd.Geometry{}, 0, vhd.WrongGeometry},
		{"larger than the disk", vhd.GeometryFor(2 * size), 0, vhd.WrongGeometry},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := vhd.SetFields(f, f.size(), vhd.Fields{Geometry: &test.geometry})
			if err != nil {
				t.Fatal(err)
			}
			if m, err := vhd.Open(f, f.size()); err != nil || m.Size() != size {
				t.Fatalf("without the option: %v", err)
			}
			m, err := vhd.Open(f, f.size(), vhd.ByGeometry())
			if !errors.Is(err, test.fault) {
				t.Fatal(err)
			}
			if test.fault != nil {
				return
			}
			c, err := vhd.NewChain(m)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, test.want)
			if _, err := c.ReadAt(got, 0); err != nil || c.Size() != test.want || !bytes.Equal(got, content[:test.want]) {
				t.Errorf("%d bytes, want %d: %v", c.Size(), test.want, err)
			}
		})
	}
	if _, err := vhd.OpenDisk(f, f.size(), nil, vhd.ByGeometry()); err == nil {
		t.Error("it can be written")
	}
}
