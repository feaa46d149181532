package xec

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/godbus/dbus/v5"
)

// run carries out a command that needs the bus. Results go to out.
func (c *client) run(ctx context.Context, cmd Command, out io.Writer) error {
	switch cmd.Action {
	case Get:
		return c.runGet(ctx, cmd, out)
	case GetAll:
		return c.runGetAll(ctx, cmd, out)
	case Set:
		return c.runSet(ctx, cmd)
	case Call:
		return c.runCall(ctx, cmd, out)
	}
	return c.runList(ctx, cmd, out)
}

// runList prints what the object offers, or the names of one kind of it.
func (c *client) runList(ctx context.Context, cmd Command, out io.Writer) error {
	object, err := c.introspect(ctx)
	if err != nil {
		return err
	}
	if cmd.Action == ListInterfaces {
		for _, i := range object.Interfaces {
			_, _ = fmt.Fprintln(out, i.Name)
		}
		return nil
	}
	object = object.narrowed(cmd)
	if cmd.Action == Introspect {
		_, _ = io.WriteString(out, object.Render())
		return nil
	}
	for _, i := range object.Interfaces {
		if cmd.Action == ListProperties {
			for _, p := range i.Properties {
				_, _ = fmt.Fprintln(out, p.Name)
			}
			continue
		}
		for _, m := range i.Methods {
			_, _ = fmt.Fprintln(out, dashed(m.Name))
		}
	}
	return nil
}

// runGet prints a property. If its interface is given nothing is introspected, so
// that get works also with services that do not describe themselves.
func (c *client) runGet(ctx context.Context, cmd Command, out io.Writer) error {
	iface := cmd.Interface
	if !cmd.HasInterface {
		object, err := c.introspect(ctx)
		if err != nil {
			return err
		}
		declaring := object.declaring(cmd.Name)
		if declaring == nil {
			return propertyNotFound(cmd.Name)
		}
		iface = declaring.Name
	}
	value, err := c.get(ctx, iface, cmd.Name)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, ShowValue(value))
	return nil
}

// runGetAll prints all properties of the given interface, or of all interfaces.
func (c *client) runGetAll(ctx context.Context, cmd Command, out io.Writer) error {
	if cmd.HasInterface {
		return c.printAll(ctx, cmd.Interface, out)
	}
	object, err := c.introspect(ctx)
	if err != nil {
		return err
	}
	for _, i := range object.Interfaces {
		err := c.printAll(ctx, i.Name, out)
		if err != nil && !(len(i.Properties) == 0 && refused(err)) {
			return err
		}
	}
	return nil
}

// refused reports whether err is the service's answer and not trouble with
// reaching it. Many services answer a question for the properties of an interface
// that has none with an error, each with another one; that must not keep the
// properties of the other interfaces from being printed.
func refused(err error) bool {
	failure, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return false
	}
	switch failure.Name {
	case serviceUnknown,
		"org.freedesktop.DBus.Error.AccessDenied",
		"org.freedesktop.DBus.Error.Disconnected",
		"org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.NoReply",
		"org.freedesktop.DBus.Error.Timeout":
		return false
	}
	return true
}

// printAll prints the properties of one interface, nothing if it has none. The
// interface through which properties are read has none of its own and is not
// asked: some services fail when it is.
func (c *client) printAll(ctx context.Context, iface string, out io.Writer) error {
	if iface == properties {
		return nil
	}
	entries, err := c.getAll(ctx, iface)
	if err != nil || len(entries) == 0 {
		return err
	}
	_, _ = fmt.Fprintf(out, "%s\n{\n", iface)
	for _, e := range entries {
		_, _ = io.WriteString(out, e.line(35))
	}
	_, _ = io.WriteString(out, "}\n")
	return nil
}

// runSet writes a property. The type of the value is the one the service declares.
func (c *client) runSet(ctx context.Context, cmd Command) error {
	object, err := c.introspect(ctx)
	if err != nil {
		return err
	}
	iface := object.declaring(cmd.Name)
	if cmd.HasInterface {
		if iface = object.find(cmd.Interface); iface == nil {
			return interfaceNotFound(cmd.Interface)
		}
	}
	if iface == nil {
		return propertyNotFound(cmd.Name)
	}
	property := iface.property(cmd.Name)
	if property == nil {
		return fmt.Errorf("property %s.%s not found", iface.Name, cmd.Name)
	}
	value, err := parseArgument(1, cmd.Value, property.Type)
	if err != nil {
		return err
	}
	return c.set(ctx, iface.Name, cmd.Name, value)
}

// runCall calls a method and prints its results.
func (c *client) runCall(ctx context.Context, cmd Command, out io.Writer) error {
	object, err := c.introspect(ctx)
	if err != nil {
		return err
	}
	iface := object.offering(cmd.Name)
	if cmd.HasInterface {
		if iface = object.find(cmd.Interface); iface == nil {
			return interfaceNotFound(cmd.Interface)
		}
	}
	if iface == nil {
		return fmt.Errorf("method %s not found in any of the interfaces", cmd.Name)
	}
	method := iface.method(cmd.Name)
	if method == nil {
		return fmt.Errorf("method %s.%s not found", iface.Name, cmd.Name)
	}
	args, err := method.parseValues(cmd.Values)
	if err != nil {
		return err
	}
	results, err := c.call(ctx, iface.Name, method.Name, args...)
	if err != nil {
		return err
	}
	for _, r := range results {
		_, _ = fmt.Fprintln(out, ShowValue(r))
	}
	return nil
}

func propertyNotFound(name string) error {
	return fmt.Errorf("property %s not found in any of the interfaces", name)
}

func interfaceNotFound(name string) error {
	return fmt.Errorf("interface %s not found", name)
}
