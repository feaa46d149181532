package disc_test

import (
	"io"
	"os"
	"testing"

	"disksync/volume"
	"disksync/volume/iso9660"
	"disksync/volume/udf"
)

// TestOwnReaders has the readers of endpoints read both sides of an image with a file of more than 4 GiB.
func TestOwnReaders(t *testing.T) {
	t.Parallel()
	v := sample(4<<30 + 200_001)
	name, l := burn(t, v)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for kind, open := range map[string]func(*volume.Device) (volume.Volume, error){"udf": udf.Open, "iso9660": iso9660.Open} {
		vol, err := open(volume.NewDevice(f, l.Size()))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for i, file := range v.Files {
			if kind == "iso9660" && len(file.Name) > 60 {
				continue // shortened there
			}
			in, err := vol.Open(file.Name)
			if err != nil {
				t.Errorf("%s: %v", kind, err)
				continue
			}
			if in.Size() != file.Size {
				t.Errorf("%s: %s has %d bytes", kind, file.Name, in.Size())
			}
			if err := (pattern{int64(i), file.Size}).compare(io.NewSectionReader(in, 0, in.Size())); err != nil && file.Size > 0 {
				t.Errorf("%s: %s: %v", kind, file.Name, err)
			}
		}
	}
}
