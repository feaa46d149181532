package mediachild

import (
	"time"

	"disksync/diskmap"
	"disksync/volume"
)

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

// Patience returns how a child is waited for on a socket: to begin to wait, and to hold the time.
func Patience(sock interface{ SetReadDeadline(t time.Time) error }) (begin func(time.Duration) error, hold func(bool)) {
	p := &patience{sock: sock}
	return p.begin, p.hold
}

// Greet reads what a child says first.
func Greet(b []byte) (missing []string, err error) { return readGreeting(&answer{b: b}) }

// Introduce reads what a child says of its volumes.
func Introduce(b []byte) (volumes, notes int, err error) {
	c := &child{}
	err = c.introduction(&answer{b: b})
	return len(c.volumes), len(c.notes), err
}

// MapOf reads what a child says of what is free on a disk of size bytes.
func MapOf(b []byte, size int64) (*diskmap.Map, error) { return readMap(&answer{b: b}, size) }

// Entries reads what a child says of a folder.
func Entries(b []byte) ([]volume.Entry, error) { return readEntries(&answer{b: b}) }
