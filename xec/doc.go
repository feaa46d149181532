// Package xec is the xec program: it reads and sets D-Bus properties, calls
// D-Bus methods and lists what an object offers, from a shell.
//
//	xec -s com.citrix.xenclient.disksyncmgr set enable-usb-cache false
//
// Types need not be given: xec introspects the object and converts each word of
// the command line to the type the service declares. It knows nothing about any
// particular service and works with all of them.
//
// The command line, the output and the exit codes are an interface that
// administrators' scripts have relied on for years. They are kept as they were,
// oddities included; each oddity is named where it is implemented. What was
// added: a service name without a dot stands for com.citrix.xenclient.<name>.
package xec
