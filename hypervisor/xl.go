package hypervisor

import (
	"errors"
	"fmt"
	"strings"

	"disksync/image"
)

// XenScript is the name of the program in /etc/xen/scripts that connects an export of the disks' socket with a device of the kernel.
// dist/xen has it.
const XenScript = "block-disksync"

// XL returns a configuration for xl of Xen 4.17 and later, as xl.cfg(5) and xl-disk-configuration(5) describe it. xl itself cannot
// connect to a socket: its qdisk backend takes files and devices only. So each disk is attached by [XenScript], which is told the
// socket and the export, and makes a raw device of them with the kernel's NBD client.
//
// Xen's ways to pass USB devices through do not go by classes, so a machine that may have some is refused here.
func (m *Machine) XL() (string, error) {
	if err := m.Check(); err != nil {
		return "", err
	}
	if len(m.USB) > 0 {
		return "", errors.New("xl has no filter for classes of USB devices; run the VM under QEMU or libvirt, or without USB")
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# VM %s. disksyncmgr serves its disks and writes this file; what is changed here is lost.", m.Name)
	line("name = %q", m.Name)
	line("uuid = %q", m.ID)
	line(`type = "hvm"`)
	line("memory = %d", m.Memory)
	line("vcpus = %d", m.CPUs)
	if m.Code != "" {
		line(`bios = "ovmf"`)
	} else {
		line(`bios = "seabios"`)
	}
	line(`serial = "pty"`)
	line("disk = [")
	for i, d := range m.Disks {
		line("  'format=raw, vdev=xvd%c, access=rw, backendtype=phy, script=%s, target=%s %s',", 'a'+i, XenScript, d.Role, m.Path(DisksSocket))
	}
	line("]")
	switch m.Network {
	case image.Bridged:
		line("vif = [ 'mac=%s, bridge=%s' ]", m.MAC(), m.Bridge)
	case image.NoNetwork:
		line("vif = [ ]")
	default:
		line("vif = [ 'mac=%s, script=vif-nat' ]", m.MAC())
	}
	if m.Display == VNC {
		line("vnc = 1")
		line(`vnclisten = "127.0.0.1"`)
	} else {
		line("vnc = 0")
	}
	line("usb = 0")
	line(`on_poweroff = "destroy"`)
	line(`on_reboot = "restart"`)
	line(`on_crash = "destroy"`)
	return b.String(), nil
}
