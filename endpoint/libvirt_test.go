package endpoint_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/testkit"
	"disksync/internal/testkit/guest"
)

// libvirt is Debian's libvirtd, with a view of the file system of its own, so that nothing of it stays.
type libvirt struct {
	*testing.T
	uri, virsh string
}

func startLibvirt(t *testing.T) *libvirt {
	t.Helper()
	testkit.Root(t, "libvirtd runs VMs as root here, who may have their disks")
	daemon, unshare := testkit.Tool(t, "libvirtd"), testkit.Tool(t, "unshare")
	l := &libvirt{T: t, virsh: testkit.Tool(t, "virsh")}
	dir, err := os.MkdirTemp("/tmp", "lv") // names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := "unix_sock_dir = \"" + dir + "\"\nauth_unix_rw = \"none\"\nunix_sock_rw_perms = \"0700\"\n"
	qemu := "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nremember_owner = 0\nstdio_handler = \"file\"\n"
	for name, text := range map[string]string{"libvirtd.conf": conf, "qemu.conf": qemu} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := "set -e\nmkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt\n" +
		"for d in /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do mount -t tmpfs tmpfs $d; done\n" +
		"cp " + dir + "/qemu.conf /etc/libvirt/\nexec " + daemon + " --config " + dir + "/libvirtd.conf --pid-file " + dir + "/pid"
	cmd := exec.Command(unshare, "--mount", "--propagation", "private", "sh", "-c", script)
	var said testkit.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("libvirtd said: %s", said.String())
		}
	})
	l.uri = "qemu:///system?socket=" + dir + "/libvirt-sock"
	testkit.Until(t, "libvirtd answers", func() bool { return exec.Command(l.virsh, "-c", l.uri, "version").Run() == nil })
	return l
}

// do runs virsh, which must succeed, and returns what it prints.
func (l *libvirt) do(args ...string) string {
	l.Helper()
	out, err := exec.Command(l.virsh, append([]string{"-q", "-c", l.uri}, args...)...).CombinedOutput()
	if err != nil {
		l.Fatalf("virsh %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestLibvirt: a VM is defined for libvirt, again without harm, runs there on the disks that are served, and is as it should be at its
// next start.
func TestLibvirt(t *testing.T) {
	t.Parallel()
	l := startLibvirt(t)
	g := newGuests(t, image.Dynamic, image.Machine{Memory: 200, CPUs: 1, USB: []int{3, 8}})
	define := func(o endpoint.RunOptions) endpoint.VMInfo {
		t.Helper()
		o.Define, o.Connect = endpoint.Libvirt, l.uri
		v, err := g.e.RunVM(t.Context(), "vm", o)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := define(endpoint.RunOptions{})
	if v.Run.State != endpoint.VMStopped || v.Run.Hypervisor != endpoint.Libvirt || len(v.Run.Notes) != 1 {
		t.Errorf("defined: %+v", v.Run)
	}
	first := l.do("dumpxml", "vm")
	define(endpoint.RunOptions{Memory: 220})
	if id := l.do("domuuid", "vm"); id != v.ID.String() {
		t.Errorf("the domain has the uuid %s, the VM %s", id, v.ID)
	}
	again := l.do("dumpxml", "vm")
	if first == again || !strings.Contains(again, "<memory unit='KiB'>225280</memory>") {
		t.Errorf("defined with more memory: %s", again)
	}
	if n := strings.Count(again, "type='raw'"); n != 2 || strings.Contains(again, ".vhd") {
		t.Errorf("%d disks are raw:\n%s", n, again)
	}
	if _, err := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{}); code(t, err) != "DS-DEFINED" {
		t.Errorf("started by us as well: %v", err)
	}
	if err := g.e.Remove("vm"); code(t, err) != "DS-DEFINED" {
		t.Errorf("removed: %v", err)
	}
	boot := func() *guest.Console {
		t.Helper()
		l.do("start", "vm")
		tty, err := os.OpenFile(l.do("ttyconsole", "vm"), os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tty.Close() })
		run(t, "stty", "-F", tty.Name(), "raw", "-echo")
		c := guest.NewConsole(t, tty)
		c.Ready()
		return c
	}
	c := boot()
	if st := g.vm().Run; st.State != endpoint.VMRunning || st.Pid == 0 || st.Hypervisor != endpoint.Libvirt {
		t.Errorf("it runs as %+v", st)
	}
	c.WriteFiles("/mnt/data/a", 1, 3, 10000)
	c.WriteFiles("/disk/b/a", 1, 3, 10000)
	c.SendWriteFiles("/disk/b/b", 1, 9, 10000)
	g.restart()
	c.Finish()
	c.CheckFiles("/disk/b/b", 1, 9, 10000)
	define(endpoint.RunOptions{Memory: 180}) // it goes on
	c.CheckFiles("/disk/b/a", 1, 3, 10000)
	if err := g.e.StopVM(t.Context(), "vm", true); code(t, err) != "DS-OTHER-HYPERVISOR" {
		t.Errorf("stopped by us: %v", err)
	}
	l.do("destroy", "vm")
	if err := g.e.AwaitVM(t.Context(), "vm"); err != nil {
		t.Fatal(err)
	}
	c = boot()
	if out := c.Do("ls /mnt/data"); out != "" {
		t.Errorf("the system disk of a dynamic VM still has %q", out)
	}
	c.CheckFiles("/disk/b/b", 1, 9, 10000)
	l.do("destroy", "vm")
	if err := g.e.AwaitVM(t.Context(), "vm"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{Define: endpoint.Nobody}); err != nil {
		t.Fatal(err)
	}
	if left := l.do("list", "--all", "--name"); left != "" {
		t.Errorf("still defined: %s", left)
	}
	if err := g.e.Remove("vm"); err != nil {
		t.Error(err)
	}
}
