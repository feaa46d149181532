// Package fakeudisks is a UDisks2 for tests: it shows what no machine of a test has, such as sticks on USB, discs that are put in, and
// mounts that are refused. The folders that it mounts media on are there already.
package fakeudisks

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

const (
	service    = "org.freedesktop.UDisks2"
	root       = "/org/freedesktop/UDisks2"
	ifaceBlock = service + ".Block"
	ifaceDrive = service + ".Drive"
	ifaceFS    = service + ".Filesystem"
	manager    = "org.freedesktop.DBus.ObjectManager"
	properties = "org.freedesktop.DBus.Properties"
)

// Medium is a stick or a disc.
type Medium struct {
	Name   string // of the device below /dev
	Drive  string // its name; those with the same are in one drive
	Disc   bool
	Inner  bool // a disk of the machine itself
	FS     string
	Label  string
	UUID   string
	Size   uint64
	Ignore bool
	Raw    bool // it has no file system that UDisks2 knows
	// Dir is where it is or will be mounted.
	Dir     string
	Mounted bool // it is, by somebody else
	// Refuse is the name of the error behind "org.freedesktop.UDisks2.Error." with which Mount answers, and Say its text.
	Refuse, Say string
}

// Fake is a UDisks2. It is safe for concurrent use.
type Fake struct {
	t    testing.TB
	conn *dbus.Conn

	mu     sync.Mutex
	media  map[dbus.ObjectPath]*Medium
	calls  []string
	hushed bool
}

// Start puts a UDisks2 on a bus for as long as the test lasts.
func Start(t testing.TB, address string) *Fake {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &Fake{t: t, conn: conn, media: map[dbus.ObjectPath]*Medium{}}
	objects := map[string]any{"GetManagedObjects": f.objects}
	mounts := map[string]any{"Mount": f.mount, "Unmount": f.unmount}
	if err := conn.ExportMethodTable(objects, root, manager); err != nil {
		t.Fatal(err)
	}
	if err := conn.ExportSubtreeMethodTable(mounts, root+"/block_devices", ifaceFS); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	return f
}

// Stop ends it, as if UDisks2 had been stopped.
func (f *Fake) Stop() { f.conn.Close() }

type faces = map[string]map[string]dbus.Variant

func blockPath(name string) dbus.ObjectPath { return dbus.ObjectPath(root + "/block_devices/" + name) }

func drivePath(m *Medium) dbus.ObjectPath { return dbus.ObjectPath(root + "/drives/" + m.Drive) }

func name(s string) []byte { return append([]byte(s), 0) }

func (m *Medium) points() [][]byte {
	if !m.Mounted {
		return [][]byte{}
	}
	return [][]byte{name(m.Dir)}
}

func (m *Medium) block() faces {
	out := faces{ifaceBlock: {
		"Device": dbus.MakeVariant(name("/dev/" + m.Name)), "IdType": dbus.MakeVariant(m.FS), "IdLabel": dbus.MakeVariant(m.Label),
		"IdUUID": dbus.MakeVariant(m.UUID), "Size": dbus.MakeVariant(m.Size), "ReadOnly": dbus.MakeVariant(m.Disc),
		"HintIgnore": dbus.MakeVariant(m.Ignore), "HintSystem": dbus.MakeVariant(m.Inner), "Drive": dbus.MakeVariant(drivePath(m)),
	}}
	if !m.Raw {
		out[ifaceFS] = map[string]dbus.Variant{"MountPoints": dbus.MakeVariant(m.points())}
	}
	return out
}

func (m *Medium) drive() faces {
	bus, media, fits := "usb", "thumb", []string{"thumb"}
	switch {
	case m.Disc:
		bus, media, fits = "", "optical_dvd", []string{"optical_cd", "optical_dvd"}
	case m.Inner:
		bus, media, fits = "", "", nil
	}
	return faces{ifaceDrive: {
		"ConnectionBus": dbus.MakeVariant(bus), "Media": dbus.MakeVariant(media), "MediaCompatibility": dbus.MakeVariant(fits),
		"Optical": dbus.MakeVariant(m.Disc), "Removable": dbus.MakeVariant(!m.Inner), "MediaRemovable": dbus.MakeVariant(!m.Inner),
		"Ejectable": dbus.MakeVariant(!m.Inner),
	}}
}

func (f *Fake) objects() (map[dbus.ObjectPath]faces, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[dbus.ObjectPath]faces{
		root + "/Manager": {service + ".Manager": {"Version": dbus.MakeVariant("2.9.4")}},
		root + "/jobs/1":  {service + ".Job": {"Operation": dbus.MakeVariant("cleanup")}},
	}
	for path, m := range f.media {
		out[path] = m.block()
		out[drivePath(m)] = m.drive()
	}
	return out, nil
}

func (f *Fake) emit(path dbus.ObjectPath, signal string, values ...any) {
	if err := f.conn.Emit(path, signal, values...); err != nil {
		f.t.Logf("%s: %v", signal, err)
	}
}

// Emit sends a signal of the root object with any body.
func (f *Fake) Emit(signal string, values ...any) { f.emit(root, signal, values...) }

// Add puts a medium in.
func (f *Fake) Add(m Medium) {
	f.mu.Lock()
	f.media[blockPath(m.Name)] = &m
	f.mu.Unlock()
	f.emit(root, manager+".InterfacesAdded", drivePath(&m), m.drive())
	f.emit(root, manager+".InterfacesAdded", blockPath(m.Name), m.block())
}

// Remove pulls a medium out.
func (f *Fake) Remove(device string) {
	f.mu.Lock()
	m := f.media[blockPath(device)]
	delete(f.media, blockPath(device))
	f.mu.Unlock()
	if m == nil {
		f.t.Errorf("there is no medium %s", device)
		return
	}
	f.emit(root, manager+".InterfacesRemoved", blockPath(device), slices.Sorted(maps.Keys(m.block())))
	f.emit(root, manager+".InterfacesRemoved", drivePath(m), []string{ifaceDrive})
}

// Mount mounts a medium as another user does.
func (f *Fake) Mount(device string) { f.set(blockPath(device), true) }

// Unmount unmounts a medium as another user does.
func (f *Fake) Unmount(device string) { f.set(blockPath(device), false) }

// Hush keeps it from telling of what is mounted and unmounted; Tell tells it then.
func (f *Fake) Hush(hushed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hushed = hushed
}

// Tell tells where a medium is mounted.
func (f *Fake) Tell(device string) { f.tell(blockPath(device)) }

func (f *Fake) set(path dbus.ObjectPath, mounted bool) {
	f.mu.Lock()
	m, hushed := f.media[path], f.hushed
	if m != nil {
		m.Mounted = mounted
	}
	f.mu.Unlock()
	if !hushed {
		f.tell(path)
	}
}

func (f *Fake) tell(path dbus.ObjectPath) {
	f.mu.Lock()
	m := f.media[path]
	if m == nil {
		f.mu.Unlock()
		return
	}
	points := m.points()
	f.mu.Unlock()
	f.emit(path, properties+".PropertiesChanged", ifaceFS, map[string]dbus.Variant{"MountPoints": dbus.MakeVariant(points)}, []string{})
}

// job makes an object of an operation come and go, as UDisks2 does.
func (f *Fake) job() {
	path := dbus.ObjectPath(root + "/jobs/2")
	f.emit(root, manager+".InterfacesAdded", path, faces{service + ".Job": {"Operation": dbus.MakeVariant("filesystem-mount")}})
	f.emit(root, manager+".InterfacesRemoved", path, []string{service + ".Job"})
}

func (f *Fake) mount(msg dbus.Message, options map[string]dbus.Variant) (string, *dbus.Error) {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	words, _ := options["options"].Value().(string)
	f.mu.Lock()
	f.job()
	m := f.media[path]
	if m == nil {
		f.mu.Unlock()
		return "", dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"no such object"})
	}
	f.calls = append(f.calls, "mount "+m.Name+" "+words)
	refuse, say, dir := m.Refuse, m.Say, m.Dir
	if m.Mounted {
		refuse, say = "AlreadyMounted", "Device /dev/"+m.Name+" is already mounted"
	}
	f.mu.Unlock()
	if refuse != "" {
		return "", dbus.NewError(service+".Error."+refuse, []any{say})
	}
	f.set(path, true)
	return dir, nil
}

func (f *Fake) unmount(msg dbus.Message, _ map[string]dbus.Variant) *dbus.Error {
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	f.mu.Lock()
	f.job()
	m := f.media[path]
	mounted := m != nil && m.Mounted
	if m != nil {
		f.calls = append(f.calls, "unmount "+m.Name)
	}
	f.mu.Unlock()
	if !mounted {
		return dbus.NewError(service+".Error.NotMounted", []any{"it is not mounted"})
	}
	f.set(path, false)
	return nil
}

// Calls returns what was asked for: "mount NAME OPTIONS" and "unmount NAME".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}
