package endpoint_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"disksync/backup"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/testkit/guest"
	"disksync/vhd"
)

// secret is the content of a file that is deleted: this line again and again.
const secret = "nobody is to have this any more\n"

// secrets returns how many bytes of it there are in a raw image.
func secrets(t *testing.T, raw string) int {
	t.Helper()
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(b, []byte(secret)) * len(secret)
}

// diskOf returns what a backup says of a disk.
func diskOf(t *testing.T, rc *endpoint.Receipt, r image.Role) backup.DiskResult {
	t.Helper()
	i := slices.IndexFunc(rc.Point.Disks, func(d backup.DiskResult) bool { return d.Role == r })
	if i < 0 {
		t.Fatalf("no %s disk in %+v", r, rc.Point)
	}
	return rc.Point.Disks[i]
}

// taken returns how much room the leaf of a disk of the VM takes on this machine's disk.
func (g *guests) taken(r image.Role) int64 {
	g.Helper()
	disks := g.vm().Disks
	i := slices.IndexFunc(disks, func(d endpoint.DiskReceipt) bool { return d.Role == r })
	info, err := os.Stat(disks[i].Leaf)
	if err != nil {
		g.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// makesHoles reports whether files of the state folder can have holes.
func (g *guests) makesHoles() bool {
	g.Helper()
	fsys, err := durable.Dir(g.TempDir())
	if err != nil {
		g.Fatal(err)
	}
	f, err := fsys.Create("probe", 0o600)
	if err != nil {
		g.Fatal(err)
	}
	defer f.Close()
	err = f.(vhd.Puncher).Punch(0, 4096)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		g.Fatal(err)
	}
	return err == nil
}

// guestFolders are the guest's folders on its system and on its user disk, as the guest and as their file systems know them.
var guestFolders = map[image.Role]struct{ mounted, name string }{
	image.System: {"/mnt/data", "/data"}, image.User: {"/disk/b/data", "/data"},
}

// inGuest writes and deletes on both disks, and returns the digests of what stays, by disk. The guest needs as many bytes as are to
// be deleted, and few can be packed.
func inGuest(c *guest.Console, deleted, kept int) map[image.Role]string {
	sums := map[image.Role]string{}
	for r, f := range guestFolders {
		c.Do(fmt.Sprintf("mkdir -p %[1]s && cd %[1]s && head -c %[2]d /dev/urandom >kept && head -c %[3]d /dev/urandom >gone && yes '%[4]s' | head -c %[5]d >secret && sync",
			f.mounted, kept, deleted, strings.TrimSpace(secret), secretSize))
		sums[r] = strings.Fields(c.Do("sha256sum kept"))[0]
		c.Do("rm gone secret && sync && cd /")
	}
	return sums
}

const secretSize = 1 << 20

// TestGuestDeletes: what a guest that runs has deleted is in none of its backups, as its own agent froze its file systems; what it has
// trimmed takes no room on this machine's disk either. All else is exact, and the guest goes on.
func TestGuestDeletes(t *testing.T) {
	t.Parallel()
	const deleted, kept, slack = 8 << 20, 2 << 20, 1 << 20
	g := newGuests(t, image.Static, image.Machine{Memory: 256, Network: image.NoNetwork})
	c := g.boot(endpoint.RunOptions{})
	sums := inGuest(c, deleted, kept)
	c.SendWriteFiles("/disk/b/w", 1, 20, 30000)
	rc := g.finish(endpoint.Request{Kind: endpoint.Backup, VM: "vm"})
	c.Finish()
	if rc.Point.Consistency != image.Quiesced || len(rc.Notes) > 0 {
		t.Errorf("the guest was not quiesced: %+v, notes %v", rc.Point, rc.Notes)
	}
	for r := range guestFolders {
		d := diskOf(t, rc, r)
		if d.Freed < deleted+secretSize-slack || d.Bytes > kept+slack {
			t.Errorf("of the %s disk %d bytes were sent and %d left out", r, d.Bytes, d.Freed)
		}
		for _, why := range d.Kept {
			if r != image.System || !strings.HasPrefix(why, "partition 1 (fat16): ") {
				t.Errorf("of the %s disk is kept: %s", r, why)
			}
		}
	}
	// The guest goes on writing, on both disks.
	c.WriteFiles("/mnt/after", 1, 3, 50000)
	c.WriteFiles("/disk/b/after", 1, 3, 50000)
	for r, n := range g.restored("back", rc.Point.Point, sums) {
		// Pieces smaller than what is looked at may be left beside what is used.
		if n > secretSize/32 {
			t.Errorf("on the %s disk that was restored are %d bytes of what was deleted", r, n)
		}
	}
	g.trims(c, deleted, slack)
	found := g.restored("all", 0, sums)
	if found[image.System] < secretSize-4096 || found[image.User] > secretSize/32 {
		t.Errorf("of what was deleted a backup of all blocks has %v bytes; it was trimmed on the user disk only", found)
	}
	c.CheckFiles("/disk/b/w", 1, 20, 30000)
	c.CheckFiles("/mnt/after", 1, 3, 50000)
	c.CheckFiles("/disk/b/after", 1, 3, 50000)
	for r, f := range guestFolders {
		if sum := strings.Fields(c.Do("sha256sum " + f.mounted + "/kept"))[0]; sum != sums[r] {
			t.Errorf("on the %s disk the guest reads another file than it wrote", r)
		}
	}
	g.off(c)
	guest.CheckClean(t, guest.Root(g.raw()))
	guest.CheckClean(t, g.export("vm", image.User))
}

// restored restores a point as a VM of its own, and compares the files of its disks with what the guest had written. It returns how many
// bytes of what was deleted there are.
func (g *guests) restored(name string, point image.Version, sums map[image.Role]string) map[image.Role]int {
	g.Helper()
	found := map[image.Role]int{}
	g.finish(endpoint.Request{Kind: endpoint.Restore, From: "vm", Point: point, VM: name})
	for r, f := range guestFolders {
		raw := g.export(name, r)
		fs := raw
		if r == image.System {
			fs = guest.Root(raw)
		}
		guest.CheckClean(g, fs)
		if guest.FileSum(g, fs, f.name+"/kept") != sums[r] {
			g.Errorf("on the %s disk of %s is another file than was written", r, name)
		}
		found[r] = secrets(g.T, raw)
	}
	if err := g.e.Remove(name); err != nil {
		g.Fatal(err)
	}
	return found
}

// trims has the guest trim its user disk: the leaf shrinks, and a backup of all blocks has nothing of what was deleted there.
func (g *guests) trims(c *guest.Console, deleted, slack int64) {
	g.Helper()
	before := g.taken(image.User)
	c.Do(fmt.Sprintf("head -c %d /dev/urandom >/disk/b/big && sync", deleted))
	full := g.taken(image.User)
	if full < before+deleted-slack {
		g.Fatalf("%d bytes of the leaf are %d after %d were written: this is no test", before, full, deleted)
	}
	c.Do("rm /disk/b/big && sync && fstrim -v /disk/b && sync")
	if now := g.taken(image.User); g.makesHoles() && now > full-deleted+slack {
		g.Errorf("the leaf takes %d bytes after the guest has trimmed, %d before", now, full)
	}
	rc := g.finish(endpoint.Request{Kind: endpoint.Backup, VM: "vm", AllBlocks: true})
	if d := diskOf(g.T, rc, image.User); d.Bytes > slack || d.Freed > 0 {
		g.Errorf("a backup of what was trimmed: %+v", d)
	}
	if d := diskOf(g.T, rc, image.System); d.Bytes < deleted-slack {
		g.Errorf("a backup of all blocks where nothing was trimmed: %+v", d)
	}
}
