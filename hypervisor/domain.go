package hypervisor

import (
	"encoding/xml"
	"fmt"

	"disksync/image"
)

// Domain returns the machine as a domain of libvirt 9 and later (https://libvirt.org/formatdomain.html). Libvirt 9.0 cannot be told that
// QEMU is to wait for a server that has gone: the guest is paused then, and libvirt.Resume lets it go on.
func (m *Machine) Domain() (string, error) {
	if err := m.Check(); err != nil {
		return "", err
	}
	if m.Display == GTK || m.Display == SDL {
		return "", fmt.Errorf("libvirt opens no window for %s; take vnc or none", m.Display)
	}
	d := domain{
		Type: "qemu", Name: m.Name, UUID: m.ID.String(), Title: m.Name,
		Description: "disksyncmgr serves the disks of this VM and writes this definition; what is changed here is lost.",
		Memory:      quantity{"MiB", m.Memory}, VCPU: m.CPUs,
		OS:       osXML{Type: osType{"x86_64", "q35", "hvm"}},
		Features: &features{ACPI: &empty{}, APIC: &empty{}, VMPort: &state{"off"}},
		CPU:      &cpu{Mode: "maximum"}, Clock: clock{"utc"}, OnPowerOff: "destroy", OnReboot: "restart", OnCrash: "destroy",
	}
	if m.KVM {
		d.Type, d.CPU.Mode = "kvm", "host-passthrough"
	}
	if m.Code != "" {
		d.OS.Loader = &loader{ReadOnly: "yes", Type: "pflash", Path: m.Code}
		d.OS.NVRAM = m.Vars
	}
	dev := &d.Devices
	for i, disk := range m.Disks {
		dev.Disks = append(dev.Disks, m.domainDisk(i, disk))
	}
	dev.Controllers = []controller{{Type: "usb", Model: "none"}}
	dev.Serials = []serial{{Type: "pty", Target: port{Port: 0}}}
	dev.Consoles = []serial{{Type: "pty", Target: port{Type: "serial", Port: 0}}}
	dev.Channels = []channel{{Type: "unix", Target: channelTarget{"virtio", "org.qemu.guest_agent.0"}}}
	dev.RNG = &rng{Model: "virtio", Backend: backend{"random", "/dev/urandom"}}
	dev.Balloon = model{Model: "none"}
	dev.Interfaces = m.domainNetwork()
	dev.Videos = []video{{videoModel{"vga"}}}
	if m.Display == VNC {
		dev.Graphics = []graphics{{Type: "vnc", Listen: listen{"socket", m.Path(VNCSocket)}}}
	}
	if len(m.USB) > 0 {
		m.domainUSB(dev)
	}
	b, err := xml.MarshalIndent(d, "", "  ")
	return string(b) + "\n", err
}

func (m *Machine) domainDisk(i int, d Disk) diskXML {
	return diskXML{
		Type: "network", Device: "disk",
		Driver: diskDriver{Name: "qemu", Type: "raw", Cache: "writeback", ErrorPolicy: "stop", RErrorPolicy: "stop", Discard: "unmap", DetectZeroes: "unmap"},
		Source: diskSource{Protocol: "nbd", Name: string(d.Role), Host: diskHost{"unix", m.Path(DisksSocket)}},
		Target: diskTarget{fmt.Sprintf("vd%c", 'a'+i), "virtio"}, Serial: string(d.Role), Boot: boot{i + 1}, Geo: d.geometry(),
	}
}

func (m *Machine) domainNetwork() []netXML {
	n := netXML{Type: "user", MAC: &mac{m.MAC()}, Model: &model{Type: "virtio"}}
	switch m.Network {
	case image.NoNetwork:
		return nil
	case image.Bridged:
		n.Type, n.Source = "bridge", &netSource{m.Bridge}
	}
	return []netXML{n}
}

// domainUSB gives the domain ports, and a filter that libvirt has QEMU keep.
func (m *Machine) domainUSB(dev *devices) {
	dev.Controllers[0] = controller{Type: "usb", Model: "qemu-xhci"}
	for n := range usbPorts {
		dev.Redirections = append(dev.Redirections, redirection{Bus: "usb", Type: "unix", Source: redirSource{"bind", m.Path(USBSocket(n))}})
	}
	f := &redirFilter{}
	for _, class := range m.USB {
		f.Rules = append(f.Rules, usbRule{Class: fmt.Sprintf("0x%02X", class), Allow: "yes"})
	}
	f.Rules = append(f.Rules, usbRule{Allow: "no"})
	dev.Filter = f
}
