package hypervisor

import (
	"encoding/json"
	"fmt"
	"strings"

	"disksync/image"
)

// Reconnect is how long QEMU waits for the disks' server when it has gone, in seconds, before the guest is paused. A service that is
// exchanged for a newer one is back in less.
const Reconnect = 3600

// QEMU returns the arguments of qemu-system-x86_64, whose names are those of QEMU 7.2 and later. The guest is held until it is let go
// over the monitor. It is paused when a disk cannot be read or written, so that it never has to live with an error that will pass.
func (m *Machine) QEMU() []string {
	a := []string{
		"-name", "guest=" + comma(m.Name) + ",debug-threads=on", "-uuid", m.ID.String(), "-S", "-nodefaults", "-no-user-config",
		"-sandbox", m.sandbox(), "-machine", "q35,accel=" + m.accel() + ",usb=off,vmport=off", "-cpu", m.cpu(),
		"-m", fmt.Sprintf("size=%dM", m.Memory), "-smp", fmt.Sprint(m.CPUs), "-rtc", "base=utc", "-boot", "strict=on", "-msg", "timestamp=on",
	}
	if m.Code != "" {
		a = append(a, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+comma(m.Code),
			"-drive", "if=pflash,unit=1,format=raw,file="+comma(m.Vars))
	}
	for i, d := range m.Disks {
		role := string(d.Role)
		geometry := ""
		if g := d.geometry(); g != nil {
			geometry = fmt.Sprintf(",cyls=%d,heads=%d,secs=%d", g.Cylinders, g.Heads, g.Sectors)
		}
		a = append(a, "-blockdev", m.nbd(role), "-blockdev", raw(role),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,id=disk-%s,serial=%s,bootindex=%d,rerror=stop,werror=stop%s", role, role, role, i+1, geometry))
	}
	a = append(a, "-device", "virtio-rng-pci",
		"-chardev", "socket,id=monitor,server=on,wait=off,path="+comma(m.Path(MonitorSocket)), "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=console,reconnect=1,path="+comma(m.Path(ConsoleSocket)), "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=agent,server=on,wait=off,path="+comma(m.Path(AgentSocket)),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
	a = append(a, m.network()...)
	a = append(a, m.usb()...)
	return append(a, m.screen()...)
}

func (m *Machine) accel() string {
	if m.KVM {
		return "kvm"
	}
	return "tcg"
}

func (m *Machine) cpu() string {
	if m.KVM {
		return "host"
	}
	return "max"
}

// sandbox keeps QEMU from what it does not need. The helper that connects a guest to a bridge is a program of its own, with more rights
// than QEMU has.
func (m *Machine) sandbox() string {
	s := "on,obsolete=deny,resourcecontrol=deny"
	if m.Network == image.Bridged {
		return s
	}
	return s + ",elevateprivileges=deny,spawn=deny"
}

// nbd describes the connection with our server.
func (m *Machine) nbd(role string) string {
	return object(map[string]any{
		"driver": "nbd", "node-name": role + "-nbd", "server": map[string]any{"type": "unix", "path": m.Path(DisksSocket)}, "export": role,
		"reconnect-delay": Reconnect, "cache": map[string]any{"direct": false, "no-flush": false}, "discard": "unmap",
	})
}

// raw says that what comes over the connection is the disk as the guest sees it.
func raw(role string) string {
	return object(map[string]any{
		"driver": "raw", "node-name": role, "file": role + "-nbd", "discard": "unmap", "detect-zeroes": "unmap",
	})
}

func object(v map[string]any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("hypervisor: internal error: " + err.Error())
	}
	return string(b)
}

// comma makes a value one of QEMU's lists of options.
func comma(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func (m *Machine) network() []string {
	card := "virtio-net-pci,netdev=net0,mac=" + m.MAC()
	switch m.Network {
	case image.NoNetwork:
		return []string{"-nic", "none"}
	case image.Bridged:
		return []string{"-netdev", "bridge,id=net0,br=" + m.Bridge, "-device", card}
	default:
		return []string{"-netdev", "user,id=net0", "-device", card}
	}
}

// usb gives the guest ports for devices of the classes that it may have. QEMU itself turns the others away.
func (m *Machine) usb() []string {
	if len(m.USB) == 0 {
		return nil
	}
	rules := make([]string, 0, len(m.USB)+1)
	for _, class := range m.USB {
		rules = append(rules, fmt.Sprintf("0x%02x:-1:-1:-1:1", class))
	}
	filter := strings.Join(append(rules, "-1:-1:-1:-1:0"), "|")
	a := []string{"-device", "qemu-xhci,id=usb"}
	for n := range usbPorts {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=usb%d,server=on,wait=off,path=%s", n, comma(m.Path(USBSocket(n)))),
			"-device", fmt.Sprintf("usb-redir,bus=usb.0,chardev=usb%d,filter=%s", n, filter))
	}
	return a
}

func (m *Machine) screen() []string {
	switch m.Display {
	case VNC:
		return []string{"-device", "VGA", "-display", "vnc=unix:" + comma(m.Path(VNCSocket))}
	case GTK, SDL:
		return []string{"-device", "virtio-vga", "-display", string(m.Display)}
	default:
		return []string{"-device", "VGA", "-display", "none"}
	}
}
