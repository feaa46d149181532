// Package busconn connects to a D-Bus bus, the system's or the session's, as the environment names it, and never agrees on the
// passing of file descriptors: nothing here uses it, and a peer could make the library fail with it.
package busconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// The environment variables that name a bus, and where the system bus is if its
// variable is not set.
const (
	systemBusVariable  = "DBUS_SYSTEM_BUS_ADDRESS"
	sessionBusVariable = "DBUS_SESSION_BUS_ADDRESS"
	systemBusAddress   = "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket"
)

// handshakeTime is how long a bus may take to let us in. A bus answers at once;
// what takes longer than this is not going to.
const handshakeTime = 10 * time.Second

// Connect opens a connection to the system bus or the session bus. getenv is os.Getenv or stands for it.
func Connect(ctx context.Context, session bool, getenv func(string) string) (*dbus.Conn, error) {
	kind, address := "system", getenv(systemBusVariable)
	if address == "" {
		address = systemBusAddress
	}
	if session {
		kind, address = "session", getenv(sessionBusVariable)
		if runtime := getenv("XDG_RUNTIME_DIR"); address == "" && runtime != "" {
			address = "unix:path=" + dbus.EscapeBusAddressValue(runtime+"/bus")
		}
		if address == "" {
			return nil, fmt.Errorf("no session bus: %s is not set", sessionBusVariable)
		}
	}
	conn, err := connectAny(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the %s bus: %w; is it running?", kind, err)
	}
	return conn, nil
}

// connectAny tries the addresses of a list from left to right.
func connectAny(ctx context.Context, addresses string) (*dbus.Conn, error) {
	var problems []error
	for address := range strings.SplitSeq(addresses, ";") {
		if address == "" {
			continue
		}
		conn, err := connectOne(ctx, address)
		if err == nil {
			return conn, nil
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return nil, errors.New("empty address")
	}
	return nil, problems[0] // the others are fallbacks and say nothing new
}

// connectOne connects to one address and introduces us to the bus.
func connectOne(ctx context.Context, address string) (*dbus.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	conn, err := open(ctx, address)
	if err != nil {
		return nil, err
	}
	// The library's handshake knows no deadline; closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = conn.Auth(nil)
	if err == nil {
		err = conn.Hello()
	}
	if !stop() {
		return nil, fmt.Errorf("no answer from %s: %w", address, ctx.Err())
	}
	if err != nil {
		_ = conn.Close()
		// Not wrapped: the bus's own refusals have the type of a service's answer,
		// which is printed elsewhere and without saying that this is about the bus.
		return nil, fmt.Errorf("refused by %s: %v", address, err)
	}
	return conn, nil
}

// open opens the transport of an address. Unix sockets, which is to say nearly
// all buses, are opened here and not by the library, so that passing of file
// descriptors is not agreed on.
func open(ctx context.Context, address string) (*dbus.Conn, error) {
	keys, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return dbus.Dial(address)
	}
	name, err := unixSocket(keys)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	socket, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	return dbus.NewConn(socket)
}

// unixSocket returns the socket that the keys of a unix address name; one in the
// abstract namespace begins with @, as package net wants it.
func unixSocket(keys string) (string, error) {
	for pair := range strings.SplitSeq(keys, ",") {
		key, value, _ := strings.Cut(pair, "=")
		prefix := ""
		switch key {
		case "path":
		case "abstract":
			prefix = "@"
		default:
			continue
		}
		name, err := dbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", err
		}
		return prefix + name, nil
	}
	return "", fmt.Errorf("address unix:%s has neither path nor abstract", keys)
}
