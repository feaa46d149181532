// Package synchronizer is the back end: the catalog of images, users and assignments, and the store of layers, behind an
// HTTP API (docs/protocol.md).
//
// [Open] opens a data folder, making it at the first start; the [Server] is an http.Handler. [Server.Serve] puts it on a TLS
// address and on a unix socket in the data folder, whose callers are administrators without a password: whoever may open the
// socket may open the database as well.
//
// In the data folder:
//
//	synchronizer.db   the catalog (SQLite). Trusted; cannot be rebuilt
//	signing.key       signs manifests. Trusted; endpoints know it, losing it means registering all of them anew
//	tls.key, tls.crt  the identity that endpoints pin. As above
//	layers/           layer files, named by LayerID. Never changed; every reader checks them against the catalog's names.
//	                  LayerID.part is a part of one that is being uploaded; it may be lost
//	states/           digest lists, named by StateID. Can be rebuilt from the layers' indexes
//	admin.sock        the administrators' socket
package synchronizer
