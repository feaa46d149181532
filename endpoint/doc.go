// Package endpoint is the engine of disksyncmgr: who this machine is to the Synchronizer, what its user may have, and the
// operations that bring it here.
//
// An [Engine] has a state folder for itself. It registers with one Synchronizer, whose keys it pins; it logs a user in; it
// plans and runs [Operation]s, a few at a time, and goes on with them after a restart. The D-Bus service and the command line
// are two front doors of this one engine.
//
// In the state folder, besides what package deploy keeps:
//
//	settings.toml      see package config
//	registration.json  address and keys of the Synchronizer. Trusted; may be lost (then the user registers again)
//	login.json         the user's token. Secret; may be lost (then the user logs in again)
//	seen.json          the highest version seen of each image, against old versions passed off as new. Trusted
//	operations/        one file for each operation. Hints: losing one means asking for the operation again
package endpoint
