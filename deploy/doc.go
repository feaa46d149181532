// Package deploy brings the disks of a version onto the endpoint: plan, transfer, verify, install, commit.
//
// A [Store] keeps VHD chains and the records of VMs in a folder. A [Job] finds the cheapest path of layers to the states of a
// manifest ([Job.Plan]), then runs it ([Job.Run]): each layer becomes one VHD file, built under a temporary name from blocks
// of whatever source has them, checked by reading it back, and only then named. The last step replaces the VM's record, the
// single commit point; before it nothing of the new version is visible, after it the previous one is still there.
//
// All blocks are checked against the digests of the signed manifest, whatever they come from. A block that a source cannot
// give, or gives wrong, comes from the next source; the others are not touched.
//
// # What survives what
//
// The part of a VHD that is being built is its own journal: its block table says what was written, and the digest of each
// block says whether it is right, so after a crash or a loss of power the next run keeps every block that is good and fetches
// the others. Nothing else has to be kept in step with it. See docs/design.md.
//
// In the store's folder:
//
//	disks/U.vhd         a VHD; golden ones never change once they have their name
//	disks/U.state       the digests of the golden VHD U; proves itself by its hash, from which U follows
//	disks/U.vhd.part    a golden VHD that is being built; may be lost
//	vms/ID.json         the record of a VM; trusted, cannot be rebuilt
//	manifests/H.json    a signed manifest, named by its SHA-256
package deploy
