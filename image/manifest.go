package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits of a manifest.
const (
	// MaxEnvelopeSize bounds a signed manifest, in bytes.
	MaxEnvelopeSize = 8 << 20
	// MaxPathLayers bounds the layers that lead from nothing to a state.
	MaxPathLayers  = 1024
	manifestFormat = 1
)

// ErrManifest is returned for a manifest that does not make sense.
var ErrManifest = errors.New("not a valid manifest")

// Manifest says what a version of an image is. It is a plain value; only a [Verified] one may be acted upon.
type Manifest struct {
	Format  int       `json:"format"`
	ImageID UUID      `json:"image_id"`
	Image   string    `json:"image"`
	Version Version   `json:"version"`
	Created time.Time `json:"created"`
	Mode    Mode      `json:"mode"`
	Note    string    `json:"note,omitempty"`
	Disks   []Disk    `json:"disks"`
	// Machine is what the VM is made of besides; nil: not said.
	Machine *Machine `json:"machine,omitempty"`
	// Point is there in the manifest of a point of a line of backups.
	Point *Point `json:"point,omitempty"`
}

// Disk is one disk of a version.
type Disk struct {
	Role  Role    `json:"role"`
	Size  int64   `json:"size"` // bytes
	State StateID `json:"state"`
	// Layers lead from nothing to State, in order.
	Layers []LayerRef `json:"layers"`
	// Boot are the blocks that a VM reads when it starts, in the order in which it does; a hint for who fetches them.
	Boot []int `json:"boot,omitempty"`
}

// LayerRef names a layer and says where in its file the index is, so that one range request brings it.
type LayerRef struct {
	ID          LayerID `json:"id"`
	From        StateID `json:"from"`
	To          StateID `json:"to"`
	Length      int64   `json:"length"` // of the whole file, in bytes
	IndexOffset int64   `json:"index_offset"`
	IndexLength int64   `json:"index_length"`
	// VHDUUIDs are the footer uuids of the VHD files that were published as To.
	VHDUUIDs []UUID `json:"vhd_uuids,omitempty"`
	// Sealed are the recipients of an age file that has the layer's file inside; empty: it is the layer's file itself. Of such a file ID is
	// the SHA-256 of all of it, and where the index is only who opens it knows: IndexOffset and IndexLength are 0.
	Sealed []string `json:"sealed,omitempty"`
}

// Look returns how many bytes it takes at least to learn from the Synchronizer what a layer holds.
func (l *LayerRef) Look() int64 {
	if len(l.Sealed) > 0 {
		return min(l.Length, sealedLook)
	}
	return l.IndexLength
}

// sealedLook is the length of the ends of an age file: the header, and a chunk.
const sealedLook = 68 << 10

// MaxSealed bounds the recipients of a layer.
const MaxSealed = 32

// CheckSealed returns an error unless the names of recipients are of the form that they have, and each is there once.
func CheckSealed(recipients []string) error {
	if len(recipients) > MaxSealed {
		return fmt.Errorf("%d recipients, at most %d make sense", len(recipients), MaxSealed)
	}
	seen := map[string]bool{}
	for _, r := range recipients {
		letters := strings.IndexFunc(r, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') }) < 0
		if !letters || !strings.HasPrefix(r, "age1") || len(r) > maxRecipient || seen[r] {
			return fmt.Errorf("recipient %q is none, or there twice", clip([]byte(r)))
		}
		seen[r] = true
	}
	return nil
}

const maxRecipient = 100

// Disk returns the disk with the role r.
func (m *Manifest) Disk(r Role) (*Disk, bool) {
	for i := range m.Disks {
		if m.Disks[i].Role == r {
			return &m.Disks[i], true
		}
	}
	return nil, false
}

// Size returns the sum of the disks' sizes in bytes.
func (m *Manifest) Size() int64 {
	var n int64
	for i := range m.Disks {
		n += m.Disks[i].Size
	}
	return n
}

// Check returns an error that wraps ErrManifest when m contradicts itself or a limit.
func (m *Manifest) Check() error {
	if err := m.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return nil
}

func (m *Manifest) check() error {
	if m.Format != manifestFormat {
		return fmt.Errorf("format %d, this program reads %d", m.Format, manifestFormat)
	}
	if m.ImageID.IsZero() || m.Version == 0 || m.Created.IsZero() || m.Mode == "" {
		return errors.New("image_id, version, created and mode must be there")
	}
	if err := CheckName(m.Image); err != nil {
		return err
	}
	if m.Machine != nil {
		if err := m.Machine.Check(); err != nil {
			return err
		}
	}
	if m.Point != nil {
		if err := m.Point.check(); err != nil {
			return err
		}
	}
	if len(m.Disks) == 0 {
		return errors.New("no disks")
	}
	seen := map[Role]bool{}
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Role == "" || seen[d.Role] {
			return fmt.Errorf("disk %d: role %q is missing or there twice", i, d.Role)
		}
		seen[d.Role] = true
		if err := d.check(); err != nil {
			return fmt.Errorf("disk %s: %w", d.Role, err)
		}
	}
	return nil
}

func (d *Disk) check() error {
	if !ValidSize(d.Size) || d.State.IsZero() {
		return fmt.Errorf("size %d, state %s", d.Size, d.State.Short())
	}
	if len(d.Layers) == 0 || len(d.Layers) > MaxPathLayers {
		return fmt.Errorf("%d layers, want 1 to %d", len(d.Layers), MaxPathLayers)
	}
	if err := CheckBoot(d.Boot, d.Size); err != nil {
		return err
	}
	at := StateID{}
	for i, l := range d.Layers {
		if l.From != at || l.To.IsZero() || l.To == l.From {
			return fmt.Errorf("layer %d does not start where the one before it ends", i)
		}
		// Each bound in its own width, so that no sum can wrap.
		sealed := len(l.Sealed) > 0
		if l.IndexOffset < 0 || l.IndexLength < 0 || (l.IndexLength == 0) != sealed || sealed && l.IndexOffset != 0 || l.Length <= 0 ||
			l.IndexOffset > l.Length || l.IndexLength > l.Length-l.IndexOffset {
			return fmt.Errorf("layer %d: index at %d+%d of %d bytes", i, l.IndexOffset, l.IndexLength, l.Length)
		}
		if err := CheckSealed(l.Sealed); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		at = l.To
	}
	if at != d.State {
		return errors.New("the last layer does not end in the state")
	}
	return nil
}

// decodeStrict reads one JSON value without unknown fields and without anything behind it.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}
