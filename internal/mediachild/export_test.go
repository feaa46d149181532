package mediachild

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
