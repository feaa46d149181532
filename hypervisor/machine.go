// Package hypervisor says to hypervisors what a VM is made of: command lines of QEMU, domains of libvirt, configurations of Xen's xl.
// It only turns values into texts; package hypervisor/libvirt talks to libvirt.
//
// Whatever the hypervisor, disks reach it as raw block devices over NBD on a unix socket, and each text says so. No hypervisor is told the
// name of a VHD, and none is left to find out a format: what a guest has written to its disk must never be taken for a container of
// another one.
package hypervisor

import (
	"errors"
	"fmt"
	"strings"

	"disksync/image"
)

// Disk is one disk of a machine: an export of the NBD server that listens on the machine's socket.
type Disk struct {
	Role image.Role // the name of the export, and the disk's serial number in the guest
	Size int64      // bytes; 0: not known
}

// geometry is what a guest is told of a disk's tracks.
type geometry struct {
	Cylinders int64 `xml:"cyls,attr"`
	Heads     int64 `xml:"heads,attr"`
	Sectors   int64 `xml:"secs,attr"`
}

// geometry is what QEMU would take for most disks. It is said because QEMU reads the first sector to guess it, and answers nobody before
// it has it, which of a disk that is still to come can take long. nil: the size is not known.
func (d Disk) geometry() *geometry {
	const heads, sectors, most = 16, 63, 16383
	if d.Size == 0 {
		return nil
	}
	return &geometry{min(max(d.Size/image.SectorSize/(heads*sectors), 2), most), heads, sectors}
}

// Display is where the guest's screen is shown.
type Display string

// The displays.
const (
	NoDisplay Display = "none"
	VNC       Display = "vnc" // on a unix socket in the machine's folder
	GTK       Display = "gtk" // a window of whoever starts the hypervisor
	SDL       Display = "sdl"
)

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown display. Empty is NoDisplay.
func (d *Display) UnmarshalText(text []byte) error {
	switch v := Display(text); v {
	case "":
		*d = NoDisplay
		return nil
	case NoDisplay, VNC, GTK, SDL:
		*d = v
		return nil
	}
	return fmt.Errorf("display %.20q: want none, vnc, gtk or sdl", text)
}

// Machine is a VM as a hypervisor is to run it.
type Machine struct {
	Name   string
	ID     image.UUID
	Memory int64 // MiB
	CPUs   int
	// KVM uses the processor's support for VMs; without it everything is emulated.
	KVM bool
	// Code and Vars are the files of UEFI: the firmware, which is only read, and what this VM keeps in it. Empty: BIOS.
	Code, Vars string
	Network    image.Network
	Bridge     string // of the host; for image.Bridged
	// USB are the classes of devices that the guest may be given.
	USB     []int
	Display Display
	// Dir is the folder with the sockets.
	Dir   string
	Disks []Disk // in the order in which they are attached
}

// Names of the sockets in a machine's folder.
const (
	DisksSocket   = "disks"   // NBD, served by us
	ConsoleSocket = "serial"  // the serial console, served by us
	MonitorSocket = "monitor" // QMP, served by QEMU
	AgentSocket   = "agent"   // of the guest agent, served by QEMU
	VNCSocket     = "vnc"     // served by QEMU
)

// USBSocket returns the name of the n-th socket on which a device can be given to the guest with the protocol of usbredir.
func USBSocket(n int) string { return fmt.Sprintf("usb%d", n) }

// usbPorts is how many devices can be given to the guest at a time.
const usbPorts = 2

// Path returns the name of a socket of the machine.
func (m *Machine) Path(socket string) string { return m.Dir + "/" + socket }

// maxSocketPath is how long the name of a unix socket may be (sun_path of unix(7), without its zero).
const maxSocketPath = 107

// Check returns an error when a hypervisor cannot be told of the machine.
func (m *Machine) Check() error {
	spec := image.Machine{Memory: m.Memory, CPUs: m.CPUs, USB: m.USB}
	switch {
	case m.Memory == 0 || m.CPUs == 0 || len(m.Disks) == 0 || m.ID.IsZero():
		return errors.New("memory, CPUs, disks and id of a machine must be there")
	case (m.Code == "") != (m.Vars == ""):
		return errors.New("the firmware and its variables go together")
	case m.Network == image.Bridged && !plain(m.Bridge):
		return fmt.Errorf("the name of a bridge: %.40q", m.Bridge)
	case len(m.Path(ConsoleSocket)) > maxSocketPath:
		return fmt.Errorf("the folder %s has a longer name than sockets can be in: the socket's name may have %d bytes", m.Dir, maxSocketPath)
	}
	for _, s := range []string{m.Dir, m.Code, m.Vars} {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '\'' || r == '"' }) {
			return fmt.Errorf("the path %q cannot be told to a hypervisor", s)
		}
	}
	if err := image.CheckName(m.Name); err != nil {
		return err
	}
	return spec.Check()
}

// plain reports whether a name is one of an interface: nothing that means something to somebody.
func plain(name string) bool {
	return name != "" && len(name) <= 15 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// MAC returns the address of the machine's network card: one of the range of QEMU, always the same for the same VM.
func (m *Machine) MAC() string {
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", m.ID[13], m.ID[14], m.ID[15])
}
