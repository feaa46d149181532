package endpoint_test

import (
	"context"
	"time"

	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"

	"disksync/internal/testkit/guest"
	"disksync/publish"
)

// guests is a world with a real guest.
type guests struct{ *world }

// newGuests publishes a guest with a user disk as version 1 of the image "guest", and deploys it as the VM "vm".
func newGuests(t *testing.T, mode image.Mode, m image.Machine) *guests {
	t.Helper()
	g := &guests{newWorld(t)}
	g.agentTime = time.Minute
	g.restart()
	user := filepath.Join(t.TempDir(), "user")
	guest.Disk(t, user, 24<<20)
	g.publishGuest(mode, &m, publish.Disk{Role: image.System, Path: guest.Image(t), Format: publish.Raw}, publish.Disk{Role: image.User, Path: user, Format: publish.Raw})
	g.lab.Assign(t, "guest", "alice", 0)
	g.logIn()
	t.Cleanup(func() {
		if g.e != nil {
			_ = g.e.StopVM(context.Background(), "vm", true) // a guest outlives its service, and so a test that failed
		}
	})
	g.finish(endpoint.Request{Kind: endpoint.Download, Image: "guest", VM: "vm"})
	return g
}

func (g *guests) publishGuest(mode image.Mode, m *image.Machine, disks ...publish.Disk) {
	g.Helper()
	o := publish.Options{Image: "guest", Mode: mode, Spool: g.TempDir(), Level: 1, Disks: disks, Machine: m}
	if _, err := publish.Run(g.Context(), g.lab.Admin, o); err != nil {
		g.Fatal(err)
	}
}

func (g *guests) finish(r endpoint.Request) *endpoint.Receipt {
	g.Helper()
	op := g.start(r)
	if err := op.Wait(g.Context()); err != nil {
		g.Fatal(err)
	}
	st := op.Status()
	if err := st.Outcome(); err != nil {
		g.Fatal(err)
	}
	return st.Receipt
}

// boot starts the VM and returns its console when it takes commands.
func (g *guests) boot(o endpoint.RunOptions) *guest.Console {
	g.Helper()
	info, err := g.e.RunVM(g.Context(), "vm", o)
	if err != nil {
		g.Fatal(err)
	}
	if info.Run.State != endpoint.VMRunning || info.Run.Pid == 0 || info.Run.Since.IsZero() || info.Run.Hypervisor != endpoint.QEMU {
		g.Errorf("it runs as %+v", info.Run)
	}
	c := g.console()
	c.Ready()
	return c
}

// console connects with the console of the VM.
func (g *guests) console() *guest.Console {
	g.Helper()
	mine, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	e := g.e
	go func() {
		defer theirs.Close()
		_ = e.Console(ctx, "vm", theirs)
	}()
	g.Cleanup(func() { cancel(); mine.Close() })
	return guest.NewConsole(g, mine)
}

// off shuts the guest down and waits for the end of the VM.
func (g *guests) off(c *guest.Console) {
	g.Helper()
	c.Send("off")
	if err := g.e.AwaitVM(g.Context(), "vm"); err != nil {
		g.Fatal(err)
	}
}

func (g *guests) vm() endpoint.VMInfo {
	g.Helper()
	vms, err := g.e.VMs()
	if err != nil || len(vms) != 1 {
		g.Fatal(vms, err)
	}
	return vms[0]
}

// raw exports the system disk to a file.
func (g *guests) raw() string {
	g.Helper()
	return g.export("vm", image.System)
}

// export exports a disk of a VM to a file, and returns its name.
func (g *guests) export(vm string, r image.Role) string {
	g.Helper()
	name := filepath.Join(g.TempDir(), "export")
	f, err := os.Create(name)
	if err != nil {
		g.Fatal(err)
	}
	defer f.Close()
	n, err := g.e.Export(g.Context(), vm, r, f, deploy.NewTally())
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		g.Fatal(err)
	}
	return name
}

// TestGuestStatic: a static VM keeps what its guest writes; while it runs nothing is done to it; an update waits for its end; and the
// service may be exchanged meanwhile.
func TestGuestStatic(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Static, image.Machine{Memory: 192, CPUs: 1, Firmware: image.UEFI, Network: image.NoNetwork})
	c := g.boot(endpoint.RunOptions{})
	c.WriteFiles("/mnt/data/a", 1, 5, 100000)
	c.WriteFiles("/disk/b/a", 1, 5, 1000)
	if efi := c.Do("ls -d /sys/firmware/efi"); efi != "/sys/firmware/efi" {
		t.Errorf("not started by UEFI: %q", efi)
	}
	if mem := c.Do("awk '/MemTotal/{print $2}' /proc/meminfo"); len(mem) != 6 || mem > "196608" {
		t.Errorf("the guest has %s KiB", mem)
	}
	if cards := c.Do("ls /sys/class/net"); strings.TrimSpace(cards) != "lo" {
		t.Errorf("the guest has %s", cards)
	}
	if serial := c.Do("cat /sys/block/vda/serial /sys/block/vdb/serial"); serial != "systemuser" {
		t.Errorf("serial numbers %q", serial)
	}
	for what, do := range map[string]func() error{
		"rolled back": func() error { _, err := g.e.RollBack("vm"); return err },
		"removed":     func() error { return g.e.Remove("vm") },
		"exported": func() error {
			_, err := g.e.Export(t.Context(), "vm", image.System, nil, deploy.NewTally())
			return err
		},
		"started": func() error { _, err := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{}); return err },
	} {
		if err := do(); code(t, err) != "DS-RUNNING" {
			t.Errorf("it was %s while it ran: %v", what, err)
		}
	}
	// The service goes and comes; the guest waits, and goes on.
	c.SendWriteFiles("/mnt/data/b", 1, 30, 50000)
	pid := g.vm().Run.Pid
	g.restart()
	if now := g.vm().Run; now.Pid != pid || now.State != endpoint.VMRunning {
		t.Fatalf("after a restart of the service: %+v", now)
	}
	c = g.console()
	c.Settle()
	c.CheckFiles("/mnt/data/b", 1, 30, 50000)
	c.CheckFiles("/mnt/data/a", 1, 5, 100000)
	if err := g.e.StopVM(t.Context(), "vm", true); err != nil {
		t.Fatal(err)
	}
	if st := g.vm().Run; st.State != endpoint.VMStopped || st.Pid != 0 {
		t.Errorf("stopped: %+v", st)
	}
	guest.CheckRoot(t, g.raw())
	c = g.boot(endpoint.RunOptions{Memory: 160})
	c.CheckFiles("/mnt/data/a", 1, 5, 100000)
	c.CheckFiles("/disk/b/a", 1, 5, 1000)
	g.off(c)
	if err := g.e.StopVM(t.Context(), "vm", false); code(t, err) != "DS-NOT-RUNNING" {
		t.Errorf("stopped twice: %v", err)
	}
	if err := g.e.Remove("vm"); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(g.dir, "run*", "*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestGuestDynamic: the system disk of a dynamic VM is as published at each start, its user disk is kept, and so are changes that are to
// be saved. An update waits for the end of the VM, and what backups freeze while the guest writes is a disk in order.
func TestGuestDynamic(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Dynamic, image.Machine{Memory: 192, CPUs: 1})
	c := g.boot(endpoint.RunOptions{})
	if cards := c.Do("ls /sys/class/net"); !strings.Contains(cards, "eth0") {
		t.Errorf("the guest has %q", cards)
	}
	c.WriteFiles("/mnt/data/a", 1, 3, 1000)
	c.WriteFiles("/disk/b/a", 1, 3, 1000)
	g.frozenWhileItWrites(c)

	// Version 2 has something on its system disk that version 1 has not.
	system := filepath.Join(t.TempDir(), "system")
	run(t, "cp", "--sparse=always", guest.Image(t), system)
	guest.AddFile(t, system, "data/version", "2\n")
	g.publishGuest("", nil, publish.Disk{Role: image.System, Path: system, Format: publish.Raw})
	rc := g.finish(endpoint.Request{Kind: endpoint.Update, VM: "vm"})
	if v := g.vm(); !rc.Pending || v.Version != 1 || v.Pending != 2 {
		t.Errorf("updated while it ran: %+v, %+v", rc, v)
	}
	if rc := g.finish(endpoint.Request{Kind: endpoint.Update, VM: "vm"}); rc.Nothing == "" {
		t.Errorf("updated again: %+v", rc)
	}
	g.off(c)
	if v := g.vm(); v.Version != 2 || v.Pending != 0 || v.Previous != 1 {
		t.Errorf("after its end: %+v", v)
	}
	yes, no := true, false
	c = g.boot(endpoint.RunOptions{SaveChanges: &yes})
	if out := c.Do("cat /mnt/data/version; ls /mnt/data"); out != "2\nversion" {
		t.Errorf("the system disk of version 2 has %q", out)
	}
	c.CheckFiles("/disk/b/a", 1, 3, 1000)
	c.WriteFiles("/mnt/data/b", 1, 3, 1000)
	g.off(c)
	c = g.boot(endpoint.RunOptions{})
	c.CheckFiles("/mnt/data/b", 1, 3, 1000)
	g.off(c)
	c = g.boot(endpoint.RunOptions{SaveChanges: &no})
	if out := c.Do("ls /mnt/data"); out != "version" {
		t.Errorf("the system disk has %q", out)
	}
	g.off(c)
}

// frozenWhileItWrites freezes the VM's user disk in the middle of its guest's writing, as a backup does, with the guest's agent and
// without it.
func (g *guests) frozenWhileItWrites(c *guest.Console) {
	g.Helper()
	vm := g.vm()
	for i := range 2 {
		c.SendWriteFiles("/disk/b/w", 10*i, 10*i+9, 100000)
		thaw, consistency := g.e.Quiesce(g.Context(), vm.ID)
		if consistency != image.Quiesced {
			g.Errorf("the guest was not quiesced: %s", consistency)
		}
		frozen, err := g.e.StoreOf().Freeze("vm", g.e.SwapperOf(vm.ID), image.CrashConsistent)
		thaw()
		if err != nil {
			g.Fatal(err)
		}
		if d, _ := frozen.Current.Disk(image.User); d == nil || len(d.Frozen) == 0 {
			g.Errorf("nothing was frozen: %+v", d)
		}
		c.Finish()
		c.CheckFiles("/disk/b/w", 0, 10*i+9, 100000)
	}
}

// run runs a program.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// TestRunRefuses: what cannot be run says why, and leaves nothing behind.
func TestRunRefuses(t *testing.T) {
	t.Parallel()
	w := ready(t, disk(1, 2))
	w.run(endpoint.Request{Kind: endpoint.Download})
	for _, c := range []struct {
		vm   string
		o    endpoint.RunOptions
		want string
	}{
		{"other", endpoint.RunOptions{}, "DS-NO-VM"},
		{"win7", endpoint.RunOptions{Memory: 1}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{CPUs: -1}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{Network: image.Bridged}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{Network: image.Bridged, Bridge: "br0,x=y"}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{Display: "gtk", Memory: 100000000}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{Define: "hyper-v"}, "DS-USAGE"},
		{"win7", endpoint.RunOptions{Define: endpoint.Libvirt, Connect: "xen:///"}, "DS-DEFINE"},
		{"win7", endpoint.RunOptions{Define: endpoint.Libvirt, Connect: "qemu:///system?socket=/no/such"}, "DS-DEFINE"},
	} {
		if _, err := w.e.RunVM(t.Context(), c.vm, c.o); code(t, err) != c.want {
			t.Errorf("%s %+v: %v, want %s", c.vm, c.o, err, c.want)
		}
	}
	if err := w.e.StopVM(t.Context(), "win7", true); code(t, err) != "DS-NOT-RUNNING" {
		t.Error(err)
	}
	if err := w.e.Console(t.Context(), "win7", nil); code(t, err) != "DS-NOT-RUNNING" {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "run*", "*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	w.holds("win7", disk(1, 2))
}
