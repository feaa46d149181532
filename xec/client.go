package xec

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/godbus/dbus/v5"
)

// The interfaces of D-Bus itself that everything here rests on.
const (
	introspectable = "org.freedesktop.DBus.Introspectable"
	properties     = "org.freedesktop.DBus.Properties"
)

// serviceUnknown is the bus's answer for a name that nobody owns and that it
// cannot start.
const serviceUnknown = "org.freedesktop.DBus.Error.ServiceUnknown"

// A service that is being started or restarted is waited for: retryTimes pauses
// of retryPause, that is five seconds.
const (
	retryPause = 250 * time.Millisecond
	retryTimes = 20
)

// pause waits before another attempt to reach a service that is not there. It
// returns false when there is to be no other attempt.
func pause(ctx context.Context, attempt int) bool {
	if attempt >= retryTimes {
		return false
	}
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// client talks to one object of one service.
type client struct {
	object dbus.BusObject
	pause  func(ctx context.Context, attempt int) bool
}

// newClient checks the names before they are used: the bus answers a message with
// malformed ones by hanging up, which would tell nobody what was wrong.
func newClient(conn *dbus.Conn, c Command, pause func(context.Context, int) bool) (*client, error) {
	if !validBusName(c.Service) {
		return nil, fmt.Errorf("%q is not the name of a service", c.Service)
	}
	path := dbus.ObjectPath(c.Object)
	if !path.IsValid() {
		return nil, fmt.Errorf("%q is not the path of an object", c.Object)
	}
	return &client{object: conn.Object(c.Service, path), pause: pause}, nil
}

// call sends one request and waits for its reply, for as long as it takes:
// methods may work for hours, and whoever grows tired can interrupt xec.
func (c *client) call(ctx context.Context, iface, member string, args ...any) ([]any, error) {
	reply := c.object.CallWithContext(ctx, iface+"."+member, 0, args...)
	return reply.Body, reply.Err
}

// ask is call for requests that change nothing. While the service is not there it
// asks again.
//
// Requests that may change something are never repeated, and need not be: an
// introspection came before and has done the waiting. The error might also come
// from the service, about some other service it needs, after half of the work.
func (c *client) ask(ctx context.Context, iface, member string, args ...any) ([]any, error) {
	for attempt := 0; ; attempt++ {
		body, err := c.call(ctx, iface, member, args...)
		failure, ok := errors.AsType[dbus.Error](err)
		if !ok || failure.Name != serviceUnknown || !c.pause(ctx, attempt) {
			return body, err
		}
	}
}

// introspect asks the object what it offers.
func (c *client) introspect(ctx context.Context) (Object, error) {
	body, err := c.ask(ctx, introspectable, "Introspect")
	if err != nil {
		return Object{}, err
	}
	if len(body) != 1 {
		return Object{}, fmt.Errorf("%w: %d values", ErrIntrospection, len(body))
	}
	data, ok := body[0].(string)
	if !ok {
		return Object{}, fmt.Errorf("%w: not a string", ErrIntrospection)
	}
	return ParseObject(data)
}

// get reads one property.
func (c *client) get(ctx context.Context, iface, name string) (any, error) {
	body, err := c.ask(ctx, properties, "Get", iface, name)
	if err != nil {
		return nil, err
	}
	if len(body) != 1 {
		return nil, fmt.Errorf("property %s: the service sent %d values", name, len(body))
	}
	return body[0], nil
}

// getAll reads all properties of an interface.
func (c *client) getAll(ctx context.Context, iface string) ([]entry, error) {
	body, err := c.ask(ctx, properties, "GetAll", iface)
	if err != nil {
		return nil, err
	}
	if len(body) != 1 || reflect.ValueOf(body[0]).Kind() != reflect.Map {
		return nil, fmt.Errorf("properties of %s: the service sent no dictionary", iface)
	}
	return sortedEntries(reflect.ValueOf(body[0])), nil
}

// set writes one property.
func (c *client) set(ctx context.Context, iface, name string, value any) error {
	_, err := c.call(ctx, properties, "Set", iface, name, dbus.MakeVariant(value))
	return err
}

// maxBusName is the longest name the D-Bus specification allows.
const maxBusName = 255

// validBusName reports whether name can be the name of a service: elements of
// letters, digits, _ and -, two at least, with dots between them. The elements of
// the names that the bus itself hands out begin with digits, those of others do not.
func validBusName(name string) bool {
	if len(name) > maxBusName {
		return false
	}
	unique := len(name) > 0 && name[0] == ':'
	if unique {
		name = name[1:]
	}
	elements, length := 0, 0
	for i := range len(name) {
		b := name[i]
		switch {
		case b == '.' && length > 0:
			elements, length = elements+1, 0
			continue
		case '0' <= b && b <= '9' && (unique || length > 0):
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '_', b == '-':
		default:
			return false
		}
		length++
	}
	return elements > 0 && length > 0
}
