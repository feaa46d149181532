package hypervisor_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/qmp"
	"disksync/internal/testkit"
)

func plain() *hypervisor.Machine {
	return &hypervisor.Machine{
		Name: "win7", ID: image.RandomUUID([16]byte{1, 2, 3, 13: 7, 14: 8, 15: 9}), Memory: 2048, CPUs: 2, KVM: true, Dir: "/var/lib/disksyncmgr/run/x",
		Disks: []hypervisor.Disk{{Role: image.System, Size: 40 << 30}},
	}
}

func full() *hypervisor.Machine {
	m := plain()
	m.Name, m.KVM, m.Code, m.Vars = "a.b-c_d", false, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/var/lib/disk,syncmgr/firmware/x.fd"
	m.Network, m.Bridge, m.USB, m.Display = image.Bridged, "br0", []int{3, 8}, hypervisor.VNC
	m.Disks = append(m.Disks, hypervisor.Disk{Role: image.Application, Size: 8 << 20}, hypervisor.Disk{Role: image.User, Size: 512})
	return m
}

func island() *hypervisor.Machine {
	m := plain()
	m.Network = image.NoNetwork
	m.Disks = append(m.Disks, hypervisor.Disk{Role: image.User})
	return m
}

// TestGolden compares what hypervisors are told with what was read and found good. UPDATE_GOLDEN=1 writes it anew.
func TestGolden(t *testing.T) {
	for name, m := range map[string]*hypervisor.Machine{"plain": plain(), "full": full(), "island": island()} {
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		domain, err := m.Domain()
		if err != nil {
			t.Error(err)
		}
		texts := map[string]string{name + ".qemu": strings.Join(m.QEMU(), "\n") + "\n", name + ".xml": domain}
		if xl, err := m.XL(); len(m.USB) > 0 && err == nil {
			t.Errorf("%s: USB devices were given to xl, which cannot tell classes apart", name)
		} else if err == nil {
			texts[name+".cfg"] = xl
		}
		for file, got := range texts {
			file = filepath.Join("testdata", file)
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if diff := cmp.Diff(string(want), got); diff != "" || err != nil {
				t.Errorf("%s: %v\n%s", file, err, diff)
			}
			if strings.Contains(got, ".vhd") || strings.Contains(got, "vpc") {
				t.Errorf("%s: a VHD was handed to a hypervisor", file)
			}
		}
	}
}

// TestCheck: what a hypervisor cannot be told, or would take for something else, is refused.
func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(m *hypervisor.Machine){
		"no disks": func(m *hypervisor.Machine) { m.Disks = nil }, "no memory": func(m *hypervisor.Machine) { m.Memory = 0 },
		"too much memory": func(m *hypervisor.Machine) { m.Memory = image.MaxMemory + 1 }, "no CPUs": func(m *hypervisor.Machine) { m.CPUs = 0 },
		"negative CPUs": func(m *hypervisor.Machine) { m.CPUs = -1 }, "no id": func(m *hypervisor.Machine) { m.ID = image.UUID{} },
		"name": func(m *hypervisor.Machine) { m.Name = "a,b" }, "half a firmware": func(m *hypervisor.Machine) { m.Code = "/x" },
		"bridge":      func(m *hypervisor.Machine) { m.Network, m.Bridge = image.Bridged, "br0,script=/x" },
		"no bridge":   func(m *hypervisor.Machine) { m.Network = image.Bridged },
		"long folder": func(m *hypervisor.Machine) { m.Dir = "/" + strings.Repeat("x", 110) },
		"line break":  func(m *hypervisor.Machine) { m.Dir = "/a\nusb = 1" }, "quote": func(m *hypervisor.Machine) { m.Dir = "/a'b" },
		"USB class": func(m *hypervisor.Machine) { m.USB = []int{256} },
	} {
		m := plain()
		spoil(m)
		if err := m.Check(); err == nil {
			t.Errorf("%s was taken", name)
		}
		if _, err := m.Domain(); err == nil {
			t.Errorf("%s was taken for a domain", name)
		}
		if _, err := m.XL(); err == nil {
			t.Errorf("%s was taken for xl", name)
		}
	}
	m := plain()
	m.Display = hypervisor.GTK
	if _, err := m.Domain(); err == nil {
		t.Error("libvirt was to open a window")
	}
	for _, text := range []string{"", "none", "vnc", "gtk", "sdl", "spice", "none,x"} {
		var d hypervisor.Display
		if err := d.UnmarshalText([]byte(text)); (err == nil) != (text != "spice" && text != "none,x") {
			t.Errorf("display %q: %v", text, err)
		}
	}
}

// TestQEMUTakesIt: a real QEMU understands every argument, with all that a machine can have but a bridge.
func TestQEMUTakesIt(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "hv,") // a comma is nothing special
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := full()
	m.Dir, m.Network, m.Disks, m.Memory = dir, image.NAT, m.Disks[:1], 128
	m.Vars = filepath.Join(dir, "vars")
	vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		testkit.Missing(t, "OVMF: %v", err)
	}
	raw := filepath.Join(dir, "raw")
	for name, b := range map[string][]byte{m.Vars: vars, raw: bytes.Repeat([]byte{1}, 1<<20)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command(testkit.Tool(t, "qemu-nbd"), "-f", "raw", "-t", "-x", "system", "-k", m.Path(hypervisor.DisksSocket), raw)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	testkit.Until(t, "the disk is served", func() bool { _, err := os.Stat(m.Path(hypervisor.DisksSocket)); return err == nil })
	var said testkit.Buffer
	cmd := exec.Command(testkit.Tool(t, "qemu-system-x86_64"), m.QEMU()...)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	var c *qmp.Client
	for tick := time.NewTicker(10 * time.Millisecond); c == nil; {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("QEMU ended: %v: %s", err, said.String())
		case <-tick.C:
			c, _ = qmp.Monitor(ctx, m.Path(hypervisor.MonitorSocket))
		case <-ctx.Done():
			t.Fatal("QEMU does not answer: ", said.String())
		}
	}
	defer c.Close()
	var blocks []struct {
		Inserted struct {
			File   string `json:"file"`
			Driver string `json:"drv"`
			Zeroes string `json:"detect_zeroes"`
		} `json:"inserted"`
	}
	if err := c.Do(ctx, "query-block", nil, &blocks); err != nil || len(blocks) != 3 {
		t.Fatal(blocks, err)
	}
	for _, b := range blocks {
		if b.Inserted.Driver != "raw" {
			t.Errorf("QEMU takes %s for %s", b.Inserted.File, b.Inserted.Driver)
		}
	}
	for _, name := range []string{hypervisor.VNCSocket, hypervisor.AgentSocket, hypervisor.USBSocket(0), hypervisor.USBSocket(1)} {
		if _, err := os.Stat(m.Path(name)); err != nil {
			t.Error(err)
		}
	}
	if err := c.Do(ctx, "quit", nil, nil); err != nil {
		t.Error(err)
	}
}
