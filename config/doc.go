// Package config holds the endpoint's settings: their names, types, defaults and ranges, and the file that keeps them.
//
// Names, types and defaults are those of the original's D-Bus interface com.citrix.xenclient.disksyncmgr.config, so that
// existing instructions ("xec … --set enable-usb-cache false") work. Only an administrator changes a setting; nothing that
// happens during a transfer ever does. Settings that the original did not have stand beside them.
package config
