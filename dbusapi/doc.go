// Package dbusapi is disksyncmgr's D-Bus front door: the original's interfaces, with their names, types and quirks of naming,
// and beside them an interface of our own for what the original had no word for. docs/dbus.md describes both.
//
// [Serve] puts an engine on a bus; [Client] is the other end, for the command line.
package dbusapi

// Names on the bus.
const (
	Service = "com.citrix.xenclient.disksyncmgr"

	ifaceMain   = Service
	ifaceConfig = Service + ".config"
	ifaceDebug  = Service + ".debug"
	ifaceGroup  = Service + ".diskgroup"
	ifaceDisk   = Service + ".disk"
	ifaceImage  = Service + ".image"
	// ifaceOwn is the interface of our own. It is versioned by its last digit.
	ifaceOwn = "org.disksync.Endpoint1"

	ifaceProperties = "org.freedesktop.DBus.Properties"
	ifaceIntrospect = "org.freedesktop.DBus.Introspectable"

	errFailed        = "org.freedesktop.DBus.Error.Failed"
	errUnknownObject = "org.freedesktop.DBus.Error.UnknownObject"
	errAccessDenied  = "org.freedesktop.DBus.Error.AccessDenied"
	errUnknownProp   = "org.freedesktop.DBus.Error.UnknownProperty"
	errReadOnly      = "org.freedesktop.DBus.Error.PropertyReadOnly"
	errInvalidArgs   = "org.freedesktop.DBus.Error.InvalidArgs"
	errUnknownIface  = "org.freedesktop.DBus.Error.UnknownInterface"
	// errOwn carries a problem.Problem: what happened, what is safe, what to do, the code, the exit status.
	errOwn = "org.disksync.Error.Failed"

	rootPath    = "/"
	groupPrefix = "/diskgroup/"
	diskPrefix  = "/disk/"
	imagePrefix = "/image/"
)
