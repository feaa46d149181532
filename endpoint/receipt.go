package endpoint

import (
	"path/filepath"
	"time"

	"disksync/backup"
	"disksync/deploy"
	"disksync/image"
)

// Receipt says what an operation did. Its JSON form is what the command line prints with --json.
type Receipt struct {
	Operation image.UUID    `json:"operation"`
	Kind      Kind          `json:"kind"`
	VM        string        `json:"vm"`
	Image     string        `json:"image"`
	Version   image.Version `json:"version"`            // the VM has now
	Previous  image.Version `json:"previous,omitempty"` // it had before
	// Nothing says why there was nothing to do.
	Nothing string `json:"nothing,omitempty"`
	// Pending says that the VM runs, and has the version when it has ended.
	Pending bool `json:"pending,omitempty"`
	// Path are the layers that were installed: the way that was taken.
	Path []deploy.StepReport `json:"path"`
	// Point is the point that a backup made, or a restore took.
	Point *PointReceipt `json:"point,omitempty"`
	deploy.Outcome
	Wire    int64                `json:"wire"` // bytes over the line in both directions, with all that TLS and HTTP add
	Seconds float64              `json:"seconds"`
	Disks   []DiskReceipt        `json:"disks"`
	Verify  *deploy.VerifyResult `json:"verify,omitempty"` // of a check
	Notes   []string             `json:"notes,omitempty"`
	Kept    []image.UUID         `json:"kept,omitempty"` // VHDs with changes of the user, whose version is gone
}

// PointReceipt is about a point of a line of backups.
type PointReceipt struct {
	Line        image.UUID          `json:"line"`
	Point       image.Version       `json:"point"`
	Made        time.Time           `json:"made"` // when the disks were as the point has them; of a restored point, when it was sealed
	Consistency image.Consistency   `json:"consistency"`
	Disks       []backup.DiskResult `json:"disks,omitempty"` // of a backup
	// Recipients can read what a backup sent, which is encrypted; none: it is not.
	Recipients []string `json:"recipients,omitempty"`
}

// DiskReceipt says where a disk is now.
type DiskReceipt struct {
	Role  image.Role    `json:"role"`
	Size  int64         `json:"size"`
	State image.StateID `json:"state"`
	Base  string        `json:"base"` // file of the golden VHD
	Leaf  string        `json:"leaf"` // file of the VHD that the VM writes to
}

// add puts the outcome of a job into the receipt.
func (r *Receipt) add(out *deploy.Outcome) {
	r.Outcome = *out
	r.Path = append(r.Path, out.Steps...)
}

// addDisks says where the VM's disks are.
func (r *Receipt) addDisks(e *Engine, vm string) error {
	rec, err := e.store.VM(vm)
	if err != nil {
		return err
	}
	r.Disks = e.diskReceipts(rec.Current)
	return nil
}

func (e *Engine) diskReceipts(d deploy.Deployment) []DiskReceipt {
	out := []DiskReceipt{}
	for _, k := range d.Disks {
		out = append(out, DiskReceipt{
			Role: k.Role, Size: k.Size, State: k.State,
			Base: filepath.Join(e.dir, filepath.FromSlash(deploy.Path(k.Base))),
			Leaf: filepath.Join(e.dir, filepath.FromSlash(deploy.Path(k.Leaf))),
		})
	}
	return out
}
