package mediachild

import "disksync/volume"

// Pid returns the number of the device's child.
func (d *Device) Pid() int {
	d.living.Lock()
	defer d.living.Unlock()
	return d.child.cmd.Process.Pid
}

// Asked reports whether a conversation is under way.
func (d *Device) Asked() bool {
	if d.mu.TryLock() {
		d.mu.Unlock()
		return false
	}
	return true
}

// Introduce reads what a child says first.
func Introduce(b []byte) (volumes, notes int, err error) {
	c := &child{}
	err = c.introduction(&answer{b: b})
	return len(c.volumes), len(c.notes) + len(c.missing), err
}

// Entries reads what a child says of a folder.
func Entries(b []byte) ([]volume.Entry, error) { return readEntries(&answer{b: b}) }
