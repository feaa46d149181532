package api

import (
	"time"

	"disksync/image"
)

// Version is the version of the protocol; it is the first element of every path.
const Version = "v1"

// Server is what anybody may know of a Synchronizer.
type Server struct {
	Name       string          `json:"name"`
	Release    string          `json:"release"` // of the program
	SigningKey image.PublicKey `json:"signing_key"`
	Time       time.Time       `json:"time"`
}

// Login asks for a token. Device is registered with the first login from it.
type Login struct {
	User     string `json:"user"`
	Password string `json:"password"`
	Device   Device `json:"device"`
}

// Device names an endpoint.
type Device struct {
	ID   image.UUID `json:"id"`
	Name string     `json:"name"`
}

// Token answers a Login.
type Token struct {
	Token   string    `json:"token"` // for the Authorization header, as a bearer token
	User    string    `json:"user"`
	Admin   bool      `json:"admin"`
	Expires time.Time `json:"expires"`
}

// Offer is an image that the user may have.
type Offer struct {
	Image   string        `json:"image"`
	ImageID image.UUID    `json:"image_id"`
	Version image.Version `json:"version"` // the one that is meant for the user
	Pinned  bool          `json:"pinned"`  // the administrator chose it; else it is the newest
	Newest  image.Version `json:"newest"`
	Mode    image.Mode    `json:"mode"`
	Size    int64         `json:"size"` // of all disks, bytes
	Note    string        `json:"note,omitempty"`
	Created time.Time     `json:"created"`
	// MediaKey names the newest key that media with the image are sealed with; zero: none are.
	MediaKey image.KeyID `json:"media_key,omitzero"`
	// Backup says when backups are made of its VMs; nil: by hand alone, and every point stays.
	Backup *BackupPolicy `json:"backup,omitempty"`
}

// MediaKey is a key that media with an image are sealed with.
type MediaKey struct {
	ID  image.KeyID    `json:"id"`
	Key image.MediaKey `json:"key"`
}

// Image describes an image to an administrator.
type Image struct {
	Name     string        `json:"name"`
	ID       image.UUID    `json:"id"`
	Mode     image.Mode    `json:"mode"`
	Versions []VersionInfo `json:"versions"` // oldest first
	// Layers are those besides the ones that the versions were published with.
	Layers []Layer `json:"layers"`
}

// VersionInfo describes a version of an image.
type VersionInfo struct {
	Version image.Version `json:"version"`
	Created time.Time     `json:"created"`
	Note    string        `json:"note,omitempty"`
	Disks   []DiskInfo    `json:"disks"`
}

// DiskInfo describes one disk of a version.
type DiskInfo struct {
	Role     image.Role    `json:"role"`
	Size     int64         `json:"size"` // of the disk, bytes
	State    image.StateID `json:"state"`
	Layer    image.LayerID `json:"layer"` // the last one of the path
	Blocks   int           `json:"blocks"`
	Bytes    int64         `json:"bytes"` // of that layer's file
	Full     bool          `json:"full"`  // it needs no other version
	VHDUUIDs []image.UUID  `json:"vhd_uuids,omitempty"`
	// Sealed are the recipients that can read all of the disk, of a backup of which something is encrypted.
	Sealed []string `json:"sealed,omitempty"`
}

// Seal makes uploaded layers into a version.
type Seal struct {
	// Version is the number that it is to get, one above the newest: whoever did not see the newest must look again.
	Version image.Version `json:"version"`
	Mode    image.Mode    `json:"mode,omitempty"` // of a new image; empty or the same for another version
	Note    string        `json:"note,omitempty"`
	Disks   []SealDisk    `json:"disks"`
	// Machine is what the VM is made of besides; nil: as in the previous version.
	Machine *image.Machine `json:"machine,omitempty"`
}

// SealDisk is one disk of a Seal. A disk of the previous version that is not named stays as it was.
type SealDisk struct {
	Role image.Role `json:"role"`
	// Layer starts from nothing, or from the disk's state in the previous version; zeros: the disk stays as it was, and gets a Boot.
	Layer    image.LayerID `json:"layer"`
	VHDUUIDs []image.UUID  `json:"vhd_uuids,omitempty"`
	// Boot are the blocks that a VM reads when it starts, in order; without any, those of the previous version.
	Boot []int `json:"boot,omitempty"`
}

// Upload is the state of a layer's upload.
type Upload struct {
	Layer  image.LayerID `json:"layer"`
	Length int64         `json:"length"`
	Offset int64         `json:"offset"` // bytes that have arrived
	State  UploadState   `json:"state"`
	Done   int64         `json:"done,omitempty"` // bytes verified
	Error  *Error        `json:"error,omitempty"`
}

// UploadState is a stage of an upload.
type UploadState string

// The stages.
const (
	Uploading UploadState = "uploading"
	Verifying UploadState = "verifying"
	Stored    UploadState = "stored"
	Failed    UploadState = "failed"
)

// NewUser makes a user.
type NewUser struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
}

// User describes a user.
type User struct {
	Name    string    `json:"name"`
	Admin   bool      `json:"admin"`
	Groups  []string  `json:"groups"`
	Created time.Time `json:"created"`
}

// Password replaces a user's password.
type Password struct {
	Password string `json:"password"`
}

// Group is a group of users.
type Group struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

// Assignment gives an image to a user or a group.
type Assignment struct {
	Image   string        `json:"image"`
	To      Subject       `json:"to"`
	Version image.Version `json:"version"` // 0: always the newest
}

// DeviceInfo describes a registered endpoint.
type DeviceInfo struct {
	Device
	User     string    `json:"user"`
	Created  time.Time `json:"created"`
	LastSeen time.Time `json:"last_seen"`
}

// MediaFile is a file to put on a medium, and where the Synchronizer keeps it.
type MediaFile struct {
	Path   string        `json:"path"` // on the Synchronizer's machine
	Name   string        `json:"name"` // proposed for the medium; any other will do
	Role   image.Role    `json:"role"`
	Layer  image.LayerID `json:"layer"`
	Length int64         `json:"length"`
}

// AuditEntry is one line of the audit log.
type AuditEntry struct {
	At      time.Time `json:"at"`
	Who     string    `json:"who"`
	From    string    `json:"from"` // address
	What    string    `json:"what"`
	Outcome string    `json:"outcome"`
}

// Layer is a layer that leads from one version of an image to another, or from nothing to one, besides those of the manifest.
type Layer struct {
	image.LayerRef
	// The versions that it leads from and to, for people; 0: nothing, or not known.
	FromVersion image.Version `json:"from_version,omitempty"`
	ToVersion   image.Version `json:"to_version,omitempty"`
}

// NewSquash asks for layers that lead directly from one version of an image to another, one for each disk.
type NewSquash struct {
	From image.Version `json:"from"`           // 0: nothing; the layers are full images
	To   image.Version `json:"to"`             // 0: the newest
	Role image.Role    `json:"role,omitempty"` // empty: all disks
	// Keep stores the layers even when they save nothing.
	Keep bool `json:"keep"`
}

// Squash is such a layer, done or in the making.
type Squash struct {
	From   image.Version `json:"from"`
	To     image.Version `json:"to"`
	Role   image.Role    `json:"role"`
	State  SquashState   `json:"state"`
	Done   int64         `json:"done"`   // bytes of the disk
	Total  int64         `json:"total"`  // bytes of the disk
	Layer  image.LayerID `json:"layer"`  // zeros until it is stored
	Blocks int           `json:"blocks"` // of the layer
	Bytes  int64         `json:"bytes"`  // of its file
	// What endpoints fetch without it: so many layers, so many bytes.
	PathLayers int    `json:"path_layers"`
	PathBytes  int64  `json:"path_bytes"`
	Own        bool   `json:"own"` // the image's policy asked for it
	Error      *Error `json:"error,omitempty"`
}

// SquashState is a stage of a squash.
type SquashState string

// The stages.
const (
	SquashWaiting   SquashState = "waiting"
	SquashRunning   SquashState = "running"
	SquashStored    SquashState = "stored"
	SquashUseless   SquashState = "useless"   // it saves nothing worth while, and was not kept
	SquashUnchanged SquashState = "unchanged" // the disk is the same in both versions
	SquashFailed    SquashState = "failed"
)

// Over reports whether nothing more will happen.
func (s SquashState) Over() bool { return s != SquashWaiting && s != SquashRunning }

// Policy says which layers the Synchronizer makes by itself when a version was published, and what becomes of backups.
type Policy struct {
	// FullFactor: a full image of the newest version is made when what a newcomer has to fetch is more than so many times what the
	// full image is estimated to have; 0: never.
	FullFactor float64 `json:"full_factor"`
	// Direct: layers are made that lead to the newest version from those that were written to media.
	Direct bool `json:"direct"`
	// LeastSaving is how many bytes a layer must save somebody.
	LeastSaving int64 `json:"least_saving"`
	// Backup says when backups are made of VMs of the image, and which stay; nil: by hand alone, and every point stays.
	Backup *BackupPolicy `json:"backup,omitempty"`
}

// DefaultPolicy is that of an image for which nothing else was said. A newcomer never has to fetch much more than twice what the disk
// takes; each full image costs about that on the Synchronizer's disk. What saves less than 16 MiB is not worth a file.
func DefaultPolicy() Policy { return Policy{FullFactor: 2, Direct: true, LeastSaving: 16 << 20} }
