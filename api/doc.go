// Package api has what the Synchronizer and its clients say to one another: routes, wire structs, limits and error codes.
// docs/protocol.md describes the conversation. The package holds no behaviour; synchronizer and syncclient both import it
// and never each other.
package api
