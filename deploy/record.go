package deploy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

const (
	vmsDir       = "vms"
	manifestsDir = "manifests"
	maxRecord    = 1 << 20
	recordFormat = 1
)

// VM is the record of a VM. Replacing its file is the commit point of every change.
type VM struct {
	Format   int         `json:"format"`
	ID       image.UUID  `json:"id"`
	Name     string      `json:"name"`
	Image    string      `json:"image"`
	ImageID  image.UUID  `json:"image_id"`
	Counter  int64       `json:"counter"` // rises with every commit
	Current  Deployment  `json:"current"`
	Previous *Deployment `json:"previous,omitempty"` // what a roll back returns to
	// Kept are leaves with changes of their user whose deployment is gone; they are never removed without being asked.
	Kept []image.UUID `json:"kept,omitempty"`
	// Backup is what is known of the VM's backups; nil: there are none that it goes on with.
	Backup *Backup `json:"backup,omitempty"`
	// Pending is a version that waits for the VM's next start; nil: none does.
	Pending *Pending `json:"pending,omitempty"`
	// SaveChanges keeps the system disk of a dynamic VM from beginning anew when the VM starts.
	SaveChanges bool `json:"save_changes,omitempty"`
	// Instant is when its disks were frozen for a backup that is not complete; nil: there is none.
	Instant *Instant `json:"instant,omitempty"`
}

// Instant is a moment that a backup shows.
type Instant struct {
	At          time.Time         `json:"at"`
	Consistency image.Consistency `json:"consistency"`
}

// Backup is the line of backups of a VM, and the newest point that this machine made of it.
type Backup struct {
	Line  image.UUID    `json:"line"`
	Point image.Version `json:"point,omitempty"` // 0: none yet
	Made  time.Time     `json:"made,omitzero"`   // when its disks were frozen
}

// Deployment is a version as it is installed.
type Deployment struct {
	// Point is the point of a line of backups that it was restored from; 0: none.
	Point     image.Version   `json:"point,omitempty"`
	Version   image.Version   `json:"version"`
	Mode      image.Mode      `json:"mode"`
	Manifest  string          `json:"manifest"` // SHA-256 of the signed manifest, which is in the store
	Installed time.Time       `json:"installed"`
	Disks     []InstalledDisk `json:"disks"`
	// Incomplete are the VHDs that the disks are to stand on, of which some are not installed yet: the VM may run on what is fetched
	// for it meanwhile. Empty: all are installed.
	Incomplete []image.UUID `json:"incomplete,omitempty"`
}

// InstalledDisk is one disk of a Deployment.
type InstalledDisk struct {
	Role  image.Role    `json:"role"`
	Size  int64         `json:"size"` // bytes
	State image.StateID `json:"state"`
	Base  image.UUID    `json:"base"` // the golden VHD that holds State
	Leaf  image.UUID    `json:"leaf"` // the VHD on top of all that the VM writes to
	// Frozen are the VHDs between Base and Leaf, the lowest first: what the VM has written up to its backups.
	Frozen []image.UUID `json:"frozen,omitempty"`
	// Held is what the newest backup holds of the disk; nil: nothing beyond State.
	Held *Held `json:"held,omitempty"`
	// Own says that State is that of a backup, so that Base holds what the user has written.
	Own bool `json:"own,omitempty"`
}

// Held is what a backup holds of a disk.
type Held struct {
	State image.StateID `json:"state"`
	At    image.UUID    `json:"at"` // the VHD with that content: Base or one of Frozen
	// Omitted is the SHA-256 of the list of what State has zeros for and the VHD has not; empty: there is nothing like that.
	Omitted string `json:"omitted,omitempty"`
}

// Disk returns the disk with the role r.
func (d *Deployment) Disk(r image.Role) (*InstalledDisk, bool) {
	for i := range d.Disks {
		if d.Disks[i].Role == r {
			return &d.Disks[i], true
		}
	}
	return nil, false
}

// ErrNoVM says that there is no VM of that name.
var ErrNoVM = errors.New("no such VM")

// NewUUID returns a random uuid.
func NewUUID() image.UUID {
	var b [16]byte
	rand.Read(b[:])
	return image.RandomUUID(b)
}

func recordFile(id image.UUID) string { return vmsDir + "/" + id.String() + ".json" }

// VMs returns all records, by name.
func (s *Store) VMs() ([]VM, error) {
	entries, err := s.fsys.ReadDir(vmsDir)
	if err != nil {
		return nil, fmt.Errorf("list VMs: %w", err)
	}
	var vms []VM
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		id, err := image.ParseUUID(text)
		if err != nil {
			continue // not ours
		}
		vm, err := s.readVM(id)
		if err != nil {
			return nil, err
		}
		vms = append(vms, vm)
	}
	slices.SortFunc(vms, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return vms, nil
}

// VM returns the record of the VM with that name; the error wraps ErrNoVM when there is none.
func (s *Store) VM(name string) (VM, error) {
	vms, err := s.VMs()
	if err != nil {
		return VM{}, err
	}
	for _, vm := range vms {
		if vm.Name == name {
			return vm, nil
		}
	}
	return VM{}, fmt.Errorf("%s: %w", name, ErrNoVM)
}

func (s *Store) readVM(id image.UUID) (VM, error) {
	b, err := durable.ReadFile(s.fsys, recordFile(id), maxRecord)
	if err != nil {
		return VM{}, fmt.Errorf("record of VM %s: %w", id, err)
	}
	var vm VM
	err = json.Unmarshal(b, &vm)
	if err == nil && (vm.Format != recordFormat || vm.ID != id) {
		err = fmt.Errorf("format %d of VM %s; this program reads format %d", vm.Format, vm.ID, recordFormat)
	}
	if err != nil {
		return VM{}, problem.New("DS-RECORD", problem.Damaged, err, "the record of VM "+id.String()+" cannot be read",
			"its disks are not touched", "bring back the file "+recordFile(id)+" from a copy of the state folder; without it nobody knows which disks are the VM's")
	}
	return vm, nil
}

// writeVM commits a record.
func (s *Store) writeVM(vm VM) error {
	b, err := json.MarshalIndent(vm, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record of VM %s: %w", vm.Name, err)
	}
	return durable.WriteFile(s.fsys, recordFile(vm.ID), b, 0o600)
}

// manifestName returns the name under which a manifest is stored: the hash of its signed form.
func manifestName(m image.Verified) string {
	sum := sha256.Sum256(m.Envelope())
	return hex.EncodeToString(sum[:])
}

func manifestFile(name string) string { return manifestsDir + "/" + name + ".json" }

// writeManifest stores a signed manifest and returns its name. One that is there and damaged is replaced.
func (s *Store) writeManifest(m image.Verified) (string, error) {
	name := manifestName(m)
	b, err := durable.ReadFile(s.fsys, manifestFile(name), image.MaxEnvelopeSize)
	if err == nil && bytes.Equal(b, m.Envelope()) {
		return name, nil
	}
	return name, durable.WriteFile(s.fsys, manifestFile(name), m.Envelope(), 0o600)
}

// MendManifest stores the manifest of a deployment again where it is damaged or lost. Another manifest changes nothing.
func (s *Store) MendManifest(d Deployment, m image.Verified) error {
	if manifestName(m) != d.Manifest {
		return nil
	}
	_, err := s.writeManifest(m)
	return err
}

// Manifest returns the signed manifest of a deployment, checked against the trusted keys.
func (s *Store) Manifest(d Deployment, trusted ...image.PublicKey) (image.Verified, error) {
	b, err := durable.ReadFile(s.fsys, manifestFile(d.Manifest), image.MaxEnvelopeSize)
	if err != nil {
		return image.Verified{}, fmt.Errorf("manifest of version %d: %w", d.Version, err)
	}
	return image.VerifyManifest(b, trusted...)
}

// ManifestOf returns the signed manifest of a VM's current version, checked against the trusted keys.
func (s *Store) ManifestOf(vm VM, trusted ...image.PublicKey) (image.Verified, error) {
	m, err := s.Manifest(vm.Current, trusted...)
	if err != nil {
		return m, problem.New("DS-MANIFEST", problem.Untrusted, err, "the stored manifest of VM "+vm.Name+" is not one that is trusted",
			"its disks were not touched", "bring it again with `update "+vm.Name+"`")
	}
	return m, nil
}
