package image

import (
	"errors"
	"fmt"
	"slices"
)

// Limits of a Machine.
const (
	MinMemory = 64      // MiB
	MaxMemory = 4 << 20 // MiB
	MaxCPUs   = 512
)

// Machine is what the VM of an image is made of, besides its disks. The zero value leaves everything to whoever runs it.
type Machine struct {
	Memory   int64    `json:"memory,omitempty"` // MiB; 0: not said
	CPUs     int      `json:"cpus,omitempty"`   // 0: not said
	Firmware Firmware `json:"firmware,omitempty"`
	Network  Network  `json:"network,omitempty"`
	// USB are the classes of devices that the guest may be given, as USB-IF numbers them: 3 is HID, 8 mass storage. Empty: none.
	USB []int `json:"usb,omitempty"`
}

// Firmware is what starts the guest.
type Firmware string

// The firmwares. Empty is BIOS.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown firmware.
func (f *Firmware) UnmarshalText(text []byte) error {
	switch v := Firmware(text); v {
	case "", BIOS, UEFI:
		*f = v
		return nil
	}
	return fmt.Errorf("firmware %q: want bios or uefi", clip(text))
}

// Network is what the guest's network card is connected to.
type Network string

// The networks. Empty is NAT.
const (
	NAT       Network = "nat"    // out through the host, nothing in
	Bridged   Network = "bridge" // a bridge of the host, which the host names
	NoNetwork Network = "none"
)

// UnmarshalText implements encoding.TextUnmarshaler; it refuses an unknown network.
func (n *Network) UnmarshalText(text []byte) error {
	switch v := Network(text); v {
	case "", NAT, Bridged, NoNetwork:
		*n = v
		return nil
	}
	return fmt.Errorf("network %q: want nat, bridge or none", clip(text))
}

// Check returns an error when m is out of its limits.
func (m *Machine) Check() error {
	switch {
	case m.Memory != 0 && (m.Memory < MinMemory || m.Memory > MaxMemory):
		return fmt.Errorf("memory of %d MiB, want %d to %d", m.Memory, MinMemory, MaxMemory)
	case m.CPUs < 0 || m.CPUs > MaxCPUs:
		return fmt.Errorf("%d CPUs, want 1 to %d", m.CPUs, MaxCPUs)
	case slices.ContainsFunc(m.USB, func(class int) bool { return class < 0 || class > 255 }):
		return errors.New("a USB class is a number from 0 to 255")
	case !slices.IsSorted(m.USB) || len(slices.Compact(slices.Clone(m.USB))) != len(m.USB):
		return errors.New("the USB classes must be in order, each once")
	}
	return nil
}
