package endpoint

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"golang.org/x/sys/unix"

	"disksync/deploy"
	"disksync/hypervisor"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/problem"
)

// Hypervisor is who runs a VM.
type Hypervisor string

// The hypervisors.
const (
	QEMU    Hypervisor = "qemu"    // started and watched by us
	Libvirt Hypervisor = "libvirt" // a domain is defined; its user starts it
	XL      Hypervisor = "xl"      // a configuration is written; its user starts it
)

// RunOptions says how a VM is run. The zero value goes by what the VM's image says.
type RunOptions struct {
	Memory  int64              `json:"memory,omitempty"` // MiB
	CPUs    int                `json:"cpus,omitempty"`
	Network image.Network      `json:"network,omitempty"` // an image that says which network it wants can only be given none instead
	Bridge  string             `json:"bridge,omitempty"`  // of this machine; for a network of that kind
	Display hypervisor.Display `json:"display,omitempty"`
	// SaveChanges lets the system disk of a dynamic VM keep its changes from now on, or no longer; nil: as before.
	SaveChanges *bool `json:"save_changes,omitempty"`
	// Define gives the VM to another hypervisor in place of starting it: Libvirt or XL. Empty: it is started.
	Define Hypervisor `json:"define,omitempty"`
	// Connect is the URI of libvirt, of which the socket's path counts; empty: that of this machine.
	Connect string `json:"connect,omitempty"`
}

// What a VM gets of which neither its image nor its user says anything.
const (
	defaultMemory = 2048 // MiB
	defaultCPUs   = 2
)

const (
	runDir      = "run"      // below it a folder for each VM, with its sockets
	firmwareDir = "firmware" // what VMs keep in their UEFI
)

// vmDir returns the folder of a VM's sockets, relative to the state folder. Names of sockets are short, so an id is not given in full.
func vmDir(id image.UUID) string { return runDir + "/" + id.String()[:13] }

func firmwareFile(id image.UUID) string { return firmwareDir + "/" + id.String() + ".fd" }

// machine says what a VM is made of.
func (e *Engine) machine(vm deploy.VM, o RunOptions) (*hypervisor.Machine, error) {
	m, err := e.store.ManifestOf(vm, e.trusted()...)
	if err != nil {
		return nil, err
	}
	var spec image.Machine
	if mf := m.Manifest(); mf.Machine != nil {
		spec = *mf.Machine
	}
	out := &hypervisor.Machine{
		Name: vm.Name, ID: vm.ID, Memory: cmp.Or(o.Memory, spec.Memory, defaultMemory),
		CPUs: cmp.Or(o.CPUs, spec.CPUs, min(defaultCPUs, runtime.NumCPU())), KVM: hasKVM(), Network: cmp.Or(spec.Network, o.Network, image.NAT),
		Bridge: o.Bridge, USB: spec.USB, Display: cmp.Or(o.Display, hypervisor.NoDisplay), Dir: filepath.Join(e.dir, vmDir(vm.ID)),
	}
	if o.Network == image.NoNetwork {
		out.Network = image.NoNetwork
	}
	if out.Network == image.Bridged && out.Bridge == "" {
		return nil, problem.New("DS-USAGE", problem.Usage, nil, "VM "+vm.Name+" is to be connected to a bridge of this machine, and none is named", "it was not started",
			"name one with --bridge")
	}
	for _, r := range image.Roles() {
		if d, ok := vm.Current.Disk(r); ok {
			out.Disks = append(out.Disks, hypervisor.Disk{Role: r, Size: d.Size})
		}
	}
	if spec.Firmware == image.UEFI {
		if err := e.uefi(out); err != nil {
			return nil, err
		}
	}
	if err := out.Check(); err != nil {
		return nil, problem.New("DS-USAGE", problem.Usage, err, "VM "+vm.Name+" cannot be run like this", "it was not started", "")
	}
	return out, nil
}

// processorFlags are the processor's support for VMs. There may be a /dev/kvm without it, which runs no firmware.
var processorFlags = regexp.MustCompile(`(?m)^flags\s.*\b(vmx|svm)\b`)

// hasKVM reports whether KVM can be used.
func hasKVM() bool {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && (runtime.GOARCH != "amd64" || processorFlags.Match(cpu)) && unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
}

// firmwares are where distributions have UEFI for VMs, and what a new VM keeps in it.
var firmwares = [][2]string{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

const maxFirmware = 16 << 20

// uefi gives a machine its firmware, with variables of its own.
func (e *Engine) uefi(m *hypervisor.Machine) error {
	for _, f := range firmwares {
		if _, err := os.Stat(f[0]); err != nil {
			continue
		}
		name := firmwareFile(m.ID)
		m.Code, m.Vars = f[0], filepath.Join(e.dir, name)
		if _, err := e.fsys.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, err := os.ReadFile(f[1])
		if err == nil && len(b) > maxFirmware {
			err = fmt.Errorf("%s has %d bytes", f[1], len(b))
		}
		if err != nil {
			return err
		}
		if err := durable.MakeDir(e.fsys, firmwareDir, 0o700); err != nil {
			return err
		}
		return durable.WriteFile(e.fsys, name, b, 0o600)
	}
	return problem.New("DS-NO-HYPERVISOR", problem.NotFound, nil, "VM "+m.Name+" starts with UEFI, and there is none for VMs on this machine", "it was not started",
		"install it (Debian: apt install ovmf)")
}
