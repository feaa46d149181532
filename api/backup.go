package api

import (
	"slices"
	"time"

	"disksync/image"
)

// BackupLine is the backups of one VM: a private line of versions, which are called points. Lines are in no list of images, and their
// ids are none of images.
type BackupLine struct {
	ID         image.UUID    `json:"id"`
	VM         image.UUID    `json:"vm"`     // its id on the endpoint
	Name       string        `json:"name"`   // of the VM
	User       string        `json:"user"`   // whose it is
	Device     image.UUID    `json:"device"` // that the last backup came from; it may be gone
	DeviceName string        `json:"device_name"`
	Image      string        `json:"image"` // that the VM was made from; its name when the line began
	ImageID    image.UUID    `json:"image_id"`
	Mode       image.Mode    `json:"mode"`
	Newest     image.Version `json:"newest"`  // the highest number that a point ever had
	Count      int           `json:"count"`   // of the points that there are
	Damaged    int           `json:"damaged"` // of these, those of which something is known to be wrong
	Bytes      int64         `json:"bytes"`   // of the layers that are there for these points alone
	// Every is how often a backup is due by the image's policy, in minutes; 0: never.
	Every int `json:"every"`
	// Encrypt and Recipients are what the policy says of encryption, AllBlocks what it says of free space.
	Encrypt    bool     `json:"encrypt,omitempty"`
	Recipients []string `json:"recipients,omitempty"`
	AllBlocks  bool     `json:"all_blocks,omitempty"`
	// Verifying says that a check of all its layers was asked for and goes on.
	Verifying bool `json:"verifying"`
	// Points are oldest first. Where lines of everybody are listed, and in the answer to NewBackup, there is only the newest.
	Points []BackupPoint `json:"points"`
	// Starts answer those of a NewBackup, in its order, without those that a layer may not start from.
	Starts []Start `json:"starts,omitempty"`
}

// Start is a state that a sealed layer may start from.
type Start struct {
	State image.StateID `json:"state"`
	// Layers and Bytes are those of the line's own, and of other lines of the user, on the way to it.
	Layers int   `json:"layers"`
	Bytes  int64 `json:"bytes"`
}

// BackupPoint is one backup of a VM.
type BackupPoint struct {
	Point       image.Version     `json:"point"` // its number, from 1; none is used again
	Created     time.Time         `json:"created"`
	Version     image.Version     `json:"version"` // of the image
	Consistency image.Consistency `json:"consistency"`
	Note        string            `json:"note,omitempty"`
	Disks       []DiskInfo        `json:"disks"`
	// Verified is since when all of it has been read back and compared: the earliest of the times at which that was last done for
	// one of its layers; zero: not yet.
	Verified time.Time `json:"verified,omitzero"`
	// Damaged says what is wrong with it; empty: nothing that is known.
	Damaged string `json:"damaged,omitempty"`
}

// NewBackup begins a line, or finds the one that is there for the VM, whose name and device it brings up to date.
type NewBackup struct {
	VM      image.UUID `json:"vm"`
	Name    string     `json:"name"`
	Image   string     `json:"image"`
	ImageID image.UUID `json:"image_id"`
	// Mode counts for an image that is not there any more, or not for this user; empty: static.
	Mode image.Mode `json:"mode,omitempty"`
	// Starts, at most MaxStarts, asks which of these states layers may start from that are sealed for the recipients Sealed: those that the
	// user may start from, and on the way to which everything that is sealed is so for all of these as well.
	Starts []image.StateID `json:"starts,omitempty"`
	Sealed []string        `json:"sealed,omitempty"`
}

// SealPoint makes uploaded layers into a point of a line.
type SealPoint struct {
	// Point is the number that it is to get, one above the line's Newest: whoever did not see the newest must look again.
	Point       image.Version     `json:"point"`
	Version     image.Version     `json:"version"` // of the image, which the VM runs
	Consistency image.Consistency `json:"consistency"`
	Note        string            `json:"note,omitempty"`
	// Disks are all disks of the VM.
	Disks []PointDisk `json:"disks"`
}

// PointDisk is one disk of a SealPoint.
type PointDisk struct {
	Role  image.Role    `json:"role"`
	State image.StateID `json:"state"`
	// Layer leads to State from nothing, from a state of a point of the user's or from one of a version that the user may have or
	// had; zeros: State is such a state itself.
	Layer image.LayerID `json:"layer,omitzero"`
}

// BackupPolicy says when endpoints make backups of VMs of an image, and which points stay.
type BackupPolicy struct {
	// Every is how often a backup is made by itself, in minutes; 0: never.
	Every int `json:"every"`
	// Manual lets users make backups by hand.
	Manual bool `json:"manual"`
	// Hourly to Monthly are how many points stay, the newest of each hour, day, ISO week or month, in UTC. All zero: every point.
	Hourly  int `json:"hourly"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
	// Encrypt takes encrypted layers only.
	Encrypt bool `json:"encrypt,omitempty"`
	// Recipients are those that encrypted layers have to be readable by besides the user: escrow.
	Recipients []string `json:"recipients,omitempty"`
	// AllBlocks has endpoints back up also what the file systems call free.
	AllBlocks bool `json:"all_blocks,omitempty"`
}

// Equal reports whether two policies are the same.
func (p BackupPolicy) Equal(o BackupPolicy) bool {
	return p.Every == o.Every && p.Manual == o.Manual && p.Hourly == o.Hourly && p.Daily == o.Daily && p.Weekly == o.Weekly &&
		p.Monthly == o.Monthly && p.Encrypt == o.Encrypt && p.AllBlocks == o.AllBlocks && slices.Equal(p.Recipients, o.Recipients)
}
