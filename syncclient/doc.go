// Package syncclient is the client side of the Synchronizer's HTTP API (docs/protocol.md), for endpoints and administrators.
//
// A [Client] speaks to the one Synchronizer whose key it is given; a server with another key gets no request, only an error
// that wraps [PinError]. No call has a total time limit: a line may be as slow as it likes as long as something moves;
// [ErrStalled] says that nothing did. [Temporary] tells errors that may go away from those that will not.
package syncclient
