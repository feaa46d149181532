package image

import (
	"errors"
	"fmt"
)

// Consistency says at which moment of a VM's life a backup shows its disks.
type Consistency string

// The kinds of consistency. All disks of a point show one instant.
const (
	Stopped         Consistency = "stopped"  // the VM did not run
	Quiesced        Consistency = "quiesced" // the guest had its file systems in order, as its agent said
	CrashConsistent Consistency = "crash"    // as after a loss of power at that instant
)

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown consistency.
func (c *Consistency) UnmarshalText(text []byte) error {
	switch v := Consistency(text); v {
	case Stopped, Quiesced, CrashConsistent:
		*c = v
		return nil
	}
	return fmt.Errorf("consistency %q: want stopped, quiesced or crash", clip(text))
}

// Point makes a manifest that of a point of a line of backups: its ImageID is the line's id, its Version the point's number.
type Point struct {
	VM          UUID        `json:"vm"`       // whose disks they are
	Name        string      `json:"name"`     // of the VM, when the point was made
	ImageID     UUID        `json:"image_id"` // of the image that the VM was made from; Manifest.Image is its name
	Version     Version     `json:"version"`  // of that image, which the VM ran
	Consistency Consistency `json:"consistency"`
}

func (p *Point) check() error {
	if p.VM.IsZero() || p.ImageID.IsZero() || p.Version == 0 || p.Consistency == "" {
		return errors.New("vm, image_id, version and consistency of a point must be there")
	}
	return CheckName(p.Name)
}
