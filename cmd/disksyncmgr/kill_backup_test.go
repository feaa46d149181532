package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/vhd/vhdfile"
)

// TestKillBackups kills the service again and again while it backs a VM up. Whenever that happens, the next one goes on by itself, the
// disk is what it was, and the point is what the disk was when it was frozen. The second half of the backups is encrypted.
//
// DISKSYNC_KILL_ROUNDS says how often: half of that.
func TestKillBackups(t *testing.T) {
	k := newKiller(t, max(1, testkit.KillRounds(t, fewKills)/2))
	run := func(r endpoint.Request) *endpoint.Receipt {
		t.Helper()
		rc, err := k.client.Run(t.Context(), r, func(endpoint.Status) {})
		if err != nil {
			t.Fatalf("%s: %v", r.Kind, err)
		}
		return rc
	}
	run(endpoint.Request{Kind: endpoint.Download, Image: "win7", Version: 1, Media: []string{k.stick}})
	now := bytes.Clone(k.v1)
	points, encrypted := 0, false
	for k.kills < k.rounds {
		if !encrypted && 2*k.kills >= k.rounds {
			encrypted = true
			if _, err := k.client.NewBackupKey(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		for range 1 + k.random.IntN(4) {
			p := make([]byte, 1+k.random.IntN(300<<10))
			for i := range p {
				p[i] = byte(k.random.Uint32())
			}
			off := k.random.Int64N(int64(len(now) - len(p)))
			copy(now[off:], p)
			k.write("win7", p, off)
		}
		k.old = map[image.UUID]bool{}
		for _, st := range k.stored() {
			k.old[st.ID] = true
		}
		followed := make(chan error, 1)
		go func() {
			_, err := k.client.Run(t.Context(), endpoint.Request{Kind: endpoint.Backup, VM: "win7"}, func(endpoint.Status) {})
			followed <- err
		}()
		testkit.Until(t, "the operation is there", func() bool { return k.current(k.stored()) != nil })
		for kills := 0; kills < 3 && k.kills < k.rounds; kills++ {
			<-time.After(time.Duration(k.random.Int64N(int64(120 * time.Millisecond))))
			if k.finished() {
				break
			}
			if !k.service.Kill() {
				t.Fatal("the service did not die of the signal")
			}
			k.kills++
			if kills == 0 {
				k.wantGone(<-followed)
			}
			if !k.finished() {
				k.inTheMiddle++
			}
			k.start()
		}
		testkit.Until(t, "the operation finishes", func() bool {
			op := k.operation()
			if op.State == endpoint.Failed {
				t.Fatalf("it failed: %v", op.Problem)
			}
			return op.State == endpoint.Finished && !op.Active
		})
		points++
		if n := int(k.operation().Receipt.Point.Point); n != points {
			t.Fatalf("%d backups, and the newest point is %d", points, n)
		}
		if got := len(k.operation().Receipt.Point.Recipients) > 0; got != encrypted {
			t.Errorf("point %d is encrypted: %t", points, got)
		}
		k.wantDisk("win7", now)
		name := fmt.Sprintf("back%d", points)
		run(endpoint.Request{Kind: endpoint.Restore, From: "win7", VM: name})
		k.wantDisk(name, now)
		if err := k.client.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d of them in the middle of the work, %d points", k.kills, k.inTheMiddle, points)
	if 2*k.inTheMiddle < k.kills {
		t.Errorf("only %d of %d kills were in the middle of the work", k.inTheMiddle, k.kills)
	}
}

// leaf returns the file that a VM writes to.
func (k *killer) leaf(vm string) string {
	k.t.Helper()
	vms, err := k.client.VMs(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, v := range vms {
		if v.Name == vm {
			return v.Disks[0].Leaf
		}
	}
	k.t.Fatalf("there is no VM %s", vm)
	return ""
}

func (k *killer) write(vm string, p []byte, off int64) {
	k.t.Helper()
	d, err := vhdfile.OpenDisk(k.leaf(vm), vhdfile.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	if _, err := d.WriteAt(p, off); err != nil {
		k.t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		k.t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		k.t.Fatal(err)
	}
}

// wantDisk compares what other programs read of a VM's disk with what it should hold, and that nothing is left over beside it.
func (k *killer) wantDisk(vm string, want []byte) {
	k.t.Helper()
	c, err := vhdfile.OpenChain(k.leaf(vm), vhdfile.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, c.Size())
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		k.t.Fatalf("the disk of VM %s is not what it should be: %v", vm, err)
	}
	names, err := os.ReadDir(filepath.Join(k.dir, "disks"))
	if err != nil {
		k.t.Fatal(err)
	}
	lists := 0
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".point") {
			lists++
		}
		if strings.HasSuffix(n.Name(), ".tmp") || lists > 1 {
			k.t.Errorf("left over: %s", n.Name())
		}
	}
	if n := len(c.Members()); vm == "win7" && n != 3 {
		k.t.Errorf("the disk consists of %d VHDs, want what was published, what the backup holds, and the leaf", n)
	}
}
