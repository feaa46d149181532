package volumetest

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"disksync/volume"
)

// Read returns all of an image.
func Read(t testing.TB, img string) []byte {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Rounds returns how often a volume is damaged: n times, and many more where there is time.
func Rounds(n int) int {
	if os.Getenv("DISKSYNC_SOAK") != "" {
		return 20 * n
	}
	return n
}

// Blank clears what Put has written, so that damage meets the file system's own structures.
func Blank(b []byte) []byte {
	const sector = 512
	for at := 0; at+sector <= len(b); at += sector {
		if !bytes.ContainsFunc(b[at:at+sector], func(c rune) bool { return c != 0 && (c < '0' || c > '9') && (c < 'a' || c > 'f') }) {
			clear(b[at : at+sector])
		}
	}
	return b
}

// Mending returns open for damaged volumes whose checksums are made right again before, so that the damage is not found out by them.
func Mending(mend func(b []byte), open func(*volume.Device) (volume.Volume, error)) func(*volume.Device) (volume.Volume, error) {
	return func(d *volume.Device) (volume.Volume, error) {
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(b, 0); err != nil {
			return nil, err
		}
		mend(b)
		return open(volume.NewDevice(bytes.NewReader(b), int64(len(b))))
	}
}

// Fuzz goes through damaged images: no panic, no endless loop. The damage is given as places, numbers of bytes, and values; or it is a
// volume from scratch.
func Fuzz(f *testing.F, images [][]byte, open func(*volume.Device) (volume.Volume, error)) {
	f.Helper()
	if len(images) == 0 {
		f.Fatal("nothing to begin with")
	}
	for i, b := range images {
		if err := Exhaust(volume.NewDevice(bytes.NewReader(b), int64(len(b))), open); err != nil {
			f.Fatalf("image %d is not good: %v", i, err)
		}
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte{0x3a, 4, 0, 0, 0, 2, 13, 0, 0, 0, 0, 4})
	}
	f.Fuzz(func(_ *testing.T, base byte, patches []byte) {
		b := patches
		if int(base) < len(images) {
			b = bytes.Clone(images[base])
			for ; len(patches) >= 6; patches = patches[6:] {
				at := int(binary.LittleEndian.Uint32(patches)) % len(b)
				for i := range int(patches[4]%8) + 1 {
					if at+i < len(b) {
						b[at+i] = patches[5]
					}
				}
			}
		}
		_ = Exhaust(volume.NewDevice(bytes.NewReader(b), int64(len(b))), open) // any error will do
	})
}
