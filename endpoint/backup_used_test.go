package endpoint_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"disksync/api"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/volume/volumetest"
)

// fileGuest is a disk with a file system, which programs of that change as the system of a VM does, and the files that are on it.
type fileGuest struct {
	*world
	img   string
	files map[string][]byte
	put   func(img, from, name string)
	del   func(img, name string)
	check func(img string)
	get   func(img, name, to string)
}

// ext4Guest and fatGuest are disks of mib MiB, filled with noise before.
func ext4Guest(w *world, mib int) *fileGuest {
	debugfs := func(img, command string, write ...string) {
		volumetest.Run(w, "debugfs", append(write, "-R", command, img)...)
	}
	g := &fileGuest{world: w, img: noisyFile(w, mib), files: map[string][]byte{},
		put:   func(img, from, name string) { debugfs(img, fmt.Sprintf("write %s %s", from, name), "-w") },
		del:   func(img, name string) { debugfs(img, "rm "+name, "-w") },
		check: func(img string) { volumetest.Run(w, "e2fsck", "-fn", img) },
		get:   func(img, name, to string) { debugfs(img, fmt.Sprintf("dump %s %s", name, to)) },
	}
	volumetest.Run(w, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0", g.img)
	return g
}

func fatGuest(w *world, mib int) *fileGuest {
	g := &fileGuest{world: w, img: noisyFile(w, mib), files: map[string][]byte{},
		put:   func(img, from, name string) { volumetest.Run(w, "mcopy", "-i", img, from, "::"+name) },
		del:   func(img, name string) { volumetest.Run(w, "mdel", "-i", img, "::"+name) },
		check: func(img string) { volumetest.Run(w, "fsck.fat", "-n", img) },
		get:   func(img, name, to string) { volumetest.Run(w, "mcopy", "-i", img, "::"+name, to) },
	}
	volumetest.Run(w, "mkfs.fat", "-F", "16", "-s", "8", g.img)
	return g
}

func ntfsGuest(w *world, mib int) *fileGuest {
	in := func(img string, do func(dir string) error) {
		volumetest.Mounted(w, func(dir string) {
			if err := do(dir); err != nil {
				w.Fatal(err)
			}
		}, "ntfs-3g", img)
	}
	copyFile := func(from, to string) error {
		b, err := os.ReadFile(from)
		return errors.Join(err, os.WriteFile(to, b, 0o600))
	}
	g := &fileGuest{world: w, img: noisyFile(w, mib), files: map[string][]byte{},
		put: func(img, from, name string) {
			in(img, func(dir string) error { return copyFile(from, filepath.Join(dir, name)) })
		},
		del:   func(img, name string) { in(img, func(dir string) error { return os.Remove(filepath.Join(dir, name)) }) },
		check: func(img string) { volumetest.Run(w, "ntfsfix", "-n", img) },
		get: func(img, name, to string) {
			in(img, func(dir string) error { return copyFile(filepath.Join(dir, name), to) })
		},
	}
	volumetest.Run(w, "mkntfs", "-q", "-F", "-Q", "-p", "0", "-H", "0", "-S", "0", g.img)
	return g
}

func noisyFile(w *world, mib int) string {
	w.Helper()
	name := filepath.Join(w.TempDir(), "guest.img")
	w.write(name, random(rand.New(rand.NewPCG(5, 6)), mib<<20))
	return name
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32() >> 8)
	}
	return b
}

func (g *fileGuest) content() []byte {
	g.Helper()
	b, err := os.ReadFile(g.img)
	if err != nil {
		g.Fatal(err)
	}
	return b
}

// store writes a file on the disk, and remove deletes one.
func (g *fileGuest) store(name string, content []byte) {
	g.Helper()
	from := filepath.Join(g.TempDir(), "from")
	g.write(from, content)
	g.put(g.img, from, name)
	g.files[name] = content
}

func (g *fileGuest) remove(name string) {
	g.Helper()
	g.del(g.img, name)
	delete(g.files, name)
}

// toVM writes to VM win7 what do changes on the disk.
func (g *fileGuest) toVM(do func()) {
	g.Helper()
	was := g.content()
	do()
	is := g.content()
	vm := g.vm("win7")
	d, _ := vm.Current.Disk(image.System)
	l, err := g.e.Store().OpenLive(d.Leaf)
	if err != nil {
		g.Fatal(err)
	}
	const step = 1024
	for off := 0; off < len(is) && err == nil; off += step {
		if !bytes.Equal(was[off:off+step], is[off:off+step]) {
			_, err = l.Disk.WriteAt(is[off:off+step], int64(off))
		}
	}
	if err != nil {
		g.Fatal(err)
	}
	if err := l.Close(); err != nil {
		g.Fatal(err)
	}
}

// restored compares a point with the disk and the files at that time, and returns how much of the disk it has zeros for.
func (g *fileGuest) restored(point image.Version, disk []byte, files map[string][]byte) (zeros int) {
	g.Helper()
	name := fmt.Sprintf("back%d", point)
	g.run(endpoint.Request{Kind: endpoint.Restore, From: "win7", Point: point, VM: name})
	out := g.exported(name, len(disk))
	const unit = 512
	for off := 0; off < len(out); off += unit {
		switch {
		case bytes.Equal(out[off:off+unit], disk[off:off+unit]):
		case image.IsZero(out[off : off+unit]):
			zeros += unit
		default:
			g.Fatalf("point %d has something at %d that never was", point, off)
		}
	}
	img := filepath.Join(g.TempDir(), "restored.img")
	g.write(img, out)
	g.check(img)
	for name, want := range files {
		to := filepath.Join(g.TempDir(), "file")
		g.get(img, name, to)
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
			g.Errorf("point %d: file %s is not what it was: %v", point, name, err)
		}
	}
	return zeros
}

// deployed publishes the disk, which has a file, and deploys it as VM win7.
func (g *fileGuest) deployed() {
	g.Helper()
	g.store("first", random(rand.New(rand.NewPCG(7, 8)), 300000))
	g.publish("win7", g.content())
	g.logIn()
	g.run(endpoint.Request{Kind: endpoint.Download, Image: "win7"})
	g.write(g.img, g.exported("win7", len(g.content()))) // what was free is not on the VM's disk
}

func (g *fileGuest) exported(vm string, size int) []byte {
	g.Helper()
	out := make(mem, size)
	if _, err := g.e.Export(g.Context(), vm, image.System, out, deploy.NewTally()); err != nil {
		g.Fatal(err)
	}
	return out
}

// TestBackupsLeaveOutFree: what was written and deleted again between two backups is not sent, and every file is as it was.
func TestBackupsLeaveOutFree(t *testing.T) {
	for name, make := range map[string]func(*world, int) *fileGuest{"ext4": ext4Guest, "fat": fatGuest, "ntfs": ntfsGuest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := make(newWorld(t), 24)
			g.deployed()
			r := rand.New(rand.NewPCG(1, 2))
			g.toVM(func() {
				g.store("big", random(r, 8<<20))
				g.store("small", random(r, 20000))
				g.remove("big")
			})
			rc := g.backUp("win7")
			d := rc.Point.Disks[0]
			if d.Freed < 7<<20 || d.Bytes > 1<<20 || len(d.Kept) > 0 {
				t.Errorf("%d bytes were left out, %d sent: %+v", d.Freed, d.Bytes, d)
			}
			if zeros := g.restored(rc.Point.Point, g.content(), g.files); zeros < 7<<20 {
				t.Errorf("the point has zeros for %d bytes", zeros)
			}
			// The next layer starts from what the point has, not from what is on the disk.
			g.toVM(func() { g.store("next", random(r, 3<<20)) })
			rc = g.backUp("win7")
			if d := rc.Point.Disks[0]; d.Bytes > 4<<20 || d.From != g.lastState(1) {
				t.Errorf("%+v", d)
			}
			g.restored(rc.Point.Point, g.content(), g.files)
			// All of it, when that is asked for, though nothing was written.
			if rc := g.backUp("win7"); rc.Nothing == "" {
				t.Errorf("a backup of nothing: %+v", rc.Point)
			}
			rc = g.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7", AllBlocks: true})
			if d := rc.Point.Disks[0]; d.Freed != 0 || d.Bytes < 4<<20 || rc.Nothing != "" {
				t.Errorf("with all blocks: %+v", d)
			}
			if zeros := g.restored(rc.Point.Point, g.content(), g.files); zeros > 0 {
				t.Errorf("with all blocks %d bytes are zeros", zeros)
			}
			g.toVM(func() { g.store("last", random(r, 5000)) })
			rc = g.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7", AllBlocks: true})
			if d := rc.Point.Disks[0]; d.Bytes > 1<<20 {
				t.Errorf("%+v", d)
			}
			g.restored(rc.Point.Point, g.content(), g.files)
		})
	}
}

// lastState returns the state of the disk of a point of VM win7.
func (g *fileGuest) lastState(point image.Version) image.StateID {
	g.Helper()
	lines, err := g.e.Backups(g.Context())
	if err != nil || len(lines) != 1 {
		g.Fatal(lines, err)
	}
	i := slices.IndexFunc(lines[0].Points, func(p api.BackupPoint) bool { return p.Point == point })
	return lines[0].Points[i].Disks[0].State
}

// TestUncleanIsBackedUpWhole: a file system that is not in order is kept whole, with what was left out of it before, and the receipt
// says why.
func TestUncleanIsBackedUpWhole(t *testing.T) {
	g := ext4Guest(newWorld(t), 16)
	g.deployed()
	r := rand.New(rand.NewPCG(1, 2))
	g.toVM(func() {
		g.store("big", random(r, 4<<20))
		g.remove("big")
	})
	if d := g.backUp("win7").Point.Disks[0]; d.Freed < 3<<20 {
		t.Errorf("%+v", d)
	}
	g.toVM(func() { volumetest.Run(t, "debugfs", "-w", "-R", "feature needs_recovery", g.img) })
	rc := g.backUp("win7")
	if d := rc.Point.Disks[0]; d.Freed != 0 || len(d.Kept) != 1 || !strings.Contains(d.Kept[0], "ext4") {
		t.Errorf("%+v", d)
	}
	g.check = func(string) {}
	if zeros := g.restored(rc.Point.Point, g.content(), nil); zeros > 0 {
		t.Errorf("%d bytes are zeros though nobody knows what is free", zeros)
	}
}

// TestBackupsOfAGuest: whatever is written and deleted between backups, each point has every file of its time and a file system in order.
func TestBackupsOfAGuest(t *testing.T) {
	g := ext4Guest(newWorld(t), 24)
	g.deployed()
	r := rand.New(rand.NewPCG(9, 10))
	type past struct {
		disk  []byte
		files map[string][]byte
	}
	all := map[image.Version]past{}
	freed := int64(0)
	for n := range points() {
		g.toVM(func() {
			for i := range 2 + r.IntN(4) {
				if names := slices.Sorted(maps.Keys(g.files)); len(names) > 3 || r.IntN(3) == 0 && len(names) > 0 {
					g.remove(names[r.IntN(len(names))])
				}
				g.store(fmt.Sprintf("file%d-%d", n, i), random(r, 1+r.IntN(1<<20)))
			}
		})
		if n%3 == 2 {
			g.restart()
		}
		rc := g.run(endpoint.Request{Kind: endpoint.Backup, VM: "win7", AllBlocks: r.IntN(4) == 0})
		freed += rc.Point.Disks[0].Freed
		all[rc.Point.Point] = past{g.content(), maps.Clone(g.files)}
	}
	if freed < 1<<20 {
		t.Errorf("%d bytes were left out: this is no test", freed)
	}
	for point, p := range all {
		g.restored(point, p.disk, p.files)
	}
	g.holds("win7", g.content())
}

// TestPolicyWantsAllBlocks: where the policy says so, backups by themselves and by hand have what is free as well, and what was left out
// before; when it says so no more, free space is left out again.
func TestPolicyWantsAllBlocks(t *testing.T) {
	for name, encrypted := range map[string]bool{"in the clear": false, "encrypted": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			clock := time.Now()
			w.close()
			w.now = func() time.Time { return clock }
			w.open()
			g := ext4Guest(w, 16)
			g.deployed()
			if encrypted {
				g.encrypting()
			}
			r := rand.New(rand.NewPCG(1, 2))
			writesAndDeletes := func(name string) {
				g.toVM(func() {
					g.store(name, random(r, 3<<20))
					g.remove(name)
				})
			}
			scheduled := func() *endpoint.Receipt {
				t.Helper()
				clock = clock.Add(2 * time.Hour)
				g.e.StartDue()
				ops := g.e.Operations()
				s := g.wait(ops[len(ops)-1])
				if s.Outcome() != nil || !s.Request.Scheduled || s.Request.AllBlocks {
					t.Fatalf("%+v, %v", s.Request, s.Outcome())
				}
				return s.Receipt
			}
			whole := func(how string, rc *endpoint.Receipt) {
				t.Helper()
				d := rc.Point.Disks[0]
				if rc.Nothing != "" || d.Freed != 0 || d.Bytes < 2<<20 || len(d.Kept) != 1 || !strings.Contains(d.Kept[0], "policy of image win7") {
					t.Errorf("%s: %+v", how, d)
				}
				if zeros := g.restored(rc.Point.Point, g.content(), g.files); zeros > 0 {
					t.Errorf("%s: %d bytes are zeros", how, zeros)
				}
			}
			g.policy(&api.BackupPolicy{Every: 60, Manual: true})
			g.e.AskPolicies(t.Context())
			writesAndDeletes("one")
			if d := scheduled().Point.Disks[0]; d.Freed < 2<<20 || d.Bytes > 1<<20 {
				t.Errorf("without a word in the policy: %+v", d)
			}
			g.policy(&api.BackupPolicy{Every: 60, Manual: true, AllBlocks: true})
			whole("by itself, what was left out before", scheduled())
			writesAndDeletes("two")
			whole("by itself", scheduled())
			writesAndDeletes("three")
			whole("by hand", g.backUp("win7"))
			if rc := g.backUp("win7"); rc.Nothing == "" {
				t.Errorf("a backup of nothing: %+v", rc.Point)
			}
			g.policy(&api.BackupPolicy{Every: 60, Manual: true})
			writesAndDeletes("four")
			if d := scheduled().Point.Disks[0]; d.Freed < 2<<20 || d.Bytes > 1<<20 {
				t.Errorf("not any more: %+v", d)
			}
		})
	}
}
