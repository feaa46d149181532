package endpoint_test

import (
	"testing"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit/guest"
)

// TestBackupWhileRunning: a guest that writes is backed up again and again, goes on with what was merged under it, and what is restored
// has whole file systems with the files that were there.
func TestBackupWhileRunning(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Static, image.Machine{Memory: 256})
	c := g.boot(endpoint.RunOptions{})
	c.WriteFiles("/mnt/first", 1, 3, 50000)
	for i := range 4 {
		c.SendWriteFiles("/mnt/more", 1+20*i, 20+20*i, 30000)
		rc := g.finish(endpoint.Request{Kind: endpoint.Backup, VM: "vm"})
		c.Finish()
		t.Logf("%+v", rc.Point)
		if rc.Point.Consistency == image.Stopped || rc.Nothing != "" || len(rc.Notes) > 0 {
			t.Errorf("%+v, notes %v", rc.Point, rc.Notes)
		}
		c.CheckFiles("/mnt/first", 1, 3, 50000)
	}
	c.WriteFiles("/mnt/last", 1, 3, 1000)
	last := g.finish(endpoint.Request{Kind: endpoint.Backup, VM: "vm"})
	vm := g.world.vm("vm")
	for _, d := range vm.Current.Disks {
		if len(d.Frozen) > 1 {
			t.Errorf("%s disk: %d frozen VHDs", d.Role, len(d.Frozen))
		}
	}
	c.CheckFiles("/mnt/more", 1, 80, 30000)
	c.Off()
	g.finish(endpoint.Request{Kind: endpoint.Restore, From: "vm", VM: "back"})
	raw := g.export("back", image.System)
	guest.CheckRoot(t, raw)
	m := guest.Start(t, "driver=raw,file.driver=file,file.filename="+raw)
	m.Ready()
	m.CheckFiles("/mnt/first", 1, 3, 50000)
	m.CheckFiles("/mnt/more", 1, 80, 30000)
	m.CheckFiles("/mnt/last", 1, 3, 1000)
	m.Off()
	t.Logf("%+v", last.Point)
}
