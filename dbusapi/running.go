package dbusapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
)

func (s *server) run(vm, options string) (string, *dbus.Error) {
	var o endpoint.RunOptions
	if len(options) > maxRequest {
		return "", own(usage("the options have %d bytes, at most %d make sense", len(options), maxRequest))
	}
	d := json.NewDecoder(strings.NewReader(options))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return "", own(usage("the options cannot be read: %v", err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", own(usage("the options go on behind their end"))
	}
	return asJSON(s.e.RunVM(s.ctx, vm, o))
}

func (s *server) stop(vm string, force bool) *dbus.Error { return own(s.e.StopVM(s.ctx, vm, force)) }

func (s *server) bootTrace(vm string) (string, *dbus.Error) { return asJSON(s.e.BootTrace(vm)) }

// console offers the serial console of a VM on a socket.
func (s *server) console(vm string, sender dbus.Sender) (string, *dbus.Error) {
	uid, _, err := s.access.credentials(string(sender))
	if err != nil {
		return "", own(err)
	}
	if err := s.e.HasConsole(vm); err != nil {
		return "", own(err)
	}
	name, err := s.offerConn(uid, func(conn *net.UnixConn) error {
		_ = s.e.Console(s.ctx, vm, conn) // it ends with the VM, or when the caller goes
		return nil
	}, func() {})
	return name, own(err)
}

// RunVM is endpoint.Engine.RunVM.
func (c *Client) RunVM(ctx context.Context, vm string, o endpoint.RunOptions) (endpoint.VMInfo, error) {
	var v endpoint.VMInfo
	text, err := json.Marshal(o)
	if err != nil {
		return v, err
	}
	return v, c.get(ctx, &v, "run", vm, string(text))
}

// StopVM is endpoint.Engine.StopVM.
func (c *Client) StopVM(ctx context.Context, vm string, force bool) error {
	_, err := c.call(ctx, "stop", vm, force)
	return err
}

// BootTrace is endpoint.Engine.BootTrace.
func (c *Client) BootTrace(ctx context.Context, vm string) (image.BootTrace, error) {
	var t image.BootTrace
	return t, c.get(ctx, &t, "boot_trace", vm)
}

// AwaitVM returns when a VM does not run any more. A service that is exchanged meanwhile does not matter.
func (c *Client) AwaitVM(ctx context.Context, vm string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	gone := time.Time{}
	for {
		runs, err := c.runs(ctx, vm)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && !runs:
			return nil
		case err == nil:
			gone = time.Time{}
		case problem.Of(err).Code != codeNoService:
			return err
		case gone.IsZero():
			gone = time.Now()
		case time.Since(gone) > streamWait:
			return goneAway("the service has ended; the VM waits for it", nil)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Client) runs(ctx context.Context, vm string) (bool, error) {
	vms, err := c.VMs(ctx)
	if err != nil {
		return false, err
	}
	for _, v := range vms {
		if v.Name == vm {
			return v.Run.State != endpoint.VMStopped, nil
		}
	}
	return false, nil
}

// Console is endpoint.Engine.Console.
func (c *Client) Console(ctx context.Context, vm string, rw io.ReadWriter) error {
	body, err := c.call(ctx, "console", vm)
	if err != nil {
		return err
	}
	var name string
	if err := dbus.Store(body, &name); err != nil {
		return fmt.Errorf("answer of the service to console: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", name)
	if err != nil {
		return fmt.Errorf("console of VM %s: %w", vm, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() { _, _ = io.Copy(conn, rw) }()
	_, err = io.Copy(rw, conn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
