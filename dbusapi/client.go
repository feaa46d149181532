package dbusapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/api"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/busconn"
	"disksync/internal/problem"
	"disksync/syncclient"
)

// Client talks to the service. It is safe for concurrent use.
type Client struct {
	conn *dbus.Conn
	obj  dbus.BusObject
}

// Dial connects to the system bus, or to the session bus. Whether the service is there shows with the first call.
func Dial(ctx context.Context, session bool) (*Client, error) {
	conn, err := busconn.Connect(ctx, session, os.Getenv)
	if err != nil {
		return nil, noService(err)
	}
	return &Client{conn: conn, obj: conn.Object(Service, rootPath)}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// call calls a method of our own interface.
func (c *Client) call(ctx context.Context, method string, args ...any) ([]any, error) {
	for _, a := range args {
		if text, ok := a.(string); ok && text != sendable(text) {
			return nil, usage("a text with a NUL, or that is not UTF-8, cannot be sent to the service")
		}
	}
	call := c.obj.CallWithContext(ctx, ifaceOwn+"."+method, 0, args...)
	if call.Err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fromBus(call.Err)
	}
	return call.Body, nil
}

// get calls a method that answers in JSON.
func (c *Client) get(ctx context.Context, v any, method string, args ...any) error {
	body, err := c.call(ctx, method, args...)
	if err != nil {
		return err
	}
	var text string
	if err := dbus.Store(body, &text); err != nil {
		return fmt.Errorf("answer of the service to %s: %w", method, err)
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("answer of the service to %s: %w", method, err)
	}
	return nil
}

// StateFolder returns the state folder of the service.
func (c *Client) StateFolder(ctx context.Context) (string, error) {
	var v dbus.Variant
	if err := c.obj.CallWithContext(ctx, ifaceProperties+".Get", 0, ifaceOwn, "state-folder").Store(&v); err != nil {
		return "", fromBus(err)
	}
	s, _ := v.Value().(string)
	return s, nil
}

// Probe is endpoint.Engine.Probe.
func (c *Client) Probe(ctx context.Context, url string) (syncclient.Fingerprint, error) {
	var text string
	body, err := c.call(ctx, "probe", url)
	if err == nil {
		err = dbus.Store(body, &text)
	}
	if err != nil {
		return syncclient.Fingerprint{}, err
	}
	return syncclient.ParseFingerprint(text)
}

// Register is endpoint.Engine.Register.
func (c *Client) Register(ctx context.Context, url string, f syncclient.Fingerprint, replace bool) (*endpoint.Registration, error) {
	if _, err := c.call(ctx, "register", url, f.String(), replace); err != nil {
		return nil, err
	}
	r := new(endpoint.Registration)
	return r, c.get(ctx, r, "registration")
}

// Login is endpoint.Engine.Login.
func (c *Client) Login(ctx context.Context, user, password string) error {
	_, err := c.call(ctx, "login", user, password)
	return err
}

// Logout is endpoint.Engine.Logout.
func (c *Client) Logout(ctx context.Context) error {
	_, err := c.call(ctx, "logout")
	return err
}

// Offers is endpoint.Engine.Offers.
func (c *Client) Offers(ctx context.Context) ([]api.Offer, error) {
	var v []api.Offer
	return v, c.get(ctx, &v, "offers")
}

// Media is endpoint.Engine.Media.
func (c *Client) Media(ctx context.Context, folders []string, name string) (*endpoint.MediaReport, error) {
	v := new(endpoint.MediaReport)
	return v, c.get(ctx, v, "media_for", append([]string{}, folders...), name)
}

// Plan is endpoint.Engine.Plan.
func (c *Client) Plan(ctx context.Context, r endpoint.Request) (endpoint.PlanReport, error) {
	var v endpoint.PlanReport
	text, err := json.Marshal(r)
	if err != nil {
		return v, err
	}
	return v, c.get(ctx, &v, "plan", string(text))
}

// VMs is endpoint.Engine.VMs.
func (c *Client) VMs(ctx context.Context) ([]endpoint.VMInfo, error) {
	var v []endpoint.VMInfo
	return v, c.get(ctx, &v, "vms")
}

// Backups is endpoint.Engine.Backups.
func (c *Client) Backups(ctx context.Context) ([]api.BackupLine, error) {
	var v []api.BackupLine
	return v, c.get(ctx, &v, "backups")
}

// BackupsOf is endpoint.Engine.BackupsOf.
func (c *Client) BackupsOf(ctx context.Context, vm string) (api.BackupLine, error) {
	var v api.BackupLine
	return v, c.get(ctx, &v, "backups_of", vm)
}

// RollBack is endpoint.Engine.RollBack.
func (c *Client) RollBack(ctx context.Context, vm string) (endpoint.VMInfo, error) {
	var v endpoint.VMInfo
	return v, c.get(ctx, &v, "rollback", vm)
}

// Remove is endpoint.Engine.Remove.
func (c *Client) Remove(ctx context.Context, vm string) error {
	_, err := c.call(ctx, "remove", vm)
	return err
}

// Operations returns the states of all operations, oldest first.
func (c *Client) Operations(ctx context.Context) ([]endpoint.Status, error) {
	var v []endpoint.Status
	return v, c.get(ctx, &v, "operations")
}

// The time between looks at an operation that is being followed: short at first, because many are over at once.
const (
	pollFirst = 20 * time.Millisecond
	pollEvery = 250 * time.Millisecond
)

// Run starts an operation and follows it to its end, telling show how it goes. When ctx ends, the operation is stopped, with
// what it did kept.
func (c *Client) Run(ctx context.Context, r endpoint.Request, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	body, err := c.call(ctx, "start", string(text))
	if err != nil {
		return nil, err
	}
	var path dbus.ObjectPath
	if err := dbus.Store(body, &path); err != nil {
		return nil, fmt.Errorf("answer of the service to start: %w", err)
	}
	return c.follow(ctx, path, show)
}

// Resume goes on with an operation and follows it as Run does.
func (c *Client) Resume(ctx context.Context, id image.UUID, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	if err := c.control(ctx, id, "start"); err != nil {
		return nil, err
	}
	return c.follow(ctx, groupPath(id), show)
}

func (c *Client) follow(ctx context.Context, path dbus.ObjectPath, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	// Under its own name, that of its connection, a service that has ended is not started anew by the bus because somebody looks,
	// and the next one is not taken for it before it has resumed anything.
	var owner string
	if err := c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, Service).Store(&owner); err != nil {
		return nil, c.unfollowed(ctx, path, fromBus(err))
	}
	service := &Client{conn: c.conn, obj: c.conn.Object(owner, rootPath)}
	for pause := pollFirst; ; pause = min(2*pause, pollEvery) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, c.unfollowed(ctx, path, nil)
		}
		var st endpoint.Status
		if err := service.get(ctx, &st, "operation", path); err != nil {
			return nil, c.unfollowed(ctx, path, err)
		}
		show(st)
		if !st.Active {
			return st.Receipt, st.Outcome()
		}
	}
}

// unfollowed says why an operation is not followed to its end: the user has interrupted it, it was cancelled meanwhile, or the
// service has ended.
func (c *Client) unfollowed(ctx context.Context, path dbus.ObjectPath, err error) error {
	if ctx.Err() != nil {
		c.stop(path)
		return context.Cause(ctx)
	}
	if errors.Is(err, errNoOperation) {
		return problem.New("DS-STOPPED", problem.Interrupted, nil, "the operation was cancelled", "what was installed before is as it was", "")
	}
	if p := problem.Of(err); p.Code == codeNoService {
		return goneAway("the service has ended", nil)
	}
	return err
}

// stopTime bounds the last word to the service after an interrupt.
const stopTime = 5 * time.Second

func (c *Client) stop(path dbus.ObjectPath) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	// The service goes on when it cannot be told; nothing is lost either way.
	_ = c.conn.Object(Service, path).CallWithContext(ctx, ifaceGroup+".stop", 0).Err
}

func (c *Client) control(ctx context.Context, id image.UUID, method string) error {
	err := c.conn.Object(Service, groupPath(id)).CallWithContext(ctx, ifaceGroup+"."+method, 0).Err
	if err != nil {
		return fromBus(err)
	}
	return nil
}

// Pause stops an operation until it is resumed.
func (c *Client) Pause(ctx context.Context, id image.UUID) error { return c.control(ctx, id, "pause") }

// Cancel stops an operation and forgets it with what it built so far.
func (c *Client) Cancel(ctx context.Context, id image.UUID) error {
	return c.control(ctx, id, "delete")
}

// Export is endpoint.Engine.Export.
func (c *Client) Export(ctx context.Context, vm string, r image.Role, out io.WriterAt, progress func(done int64)) (int64, error) {
	body, err := c.call(ctx, "export", vm, string(r))
	if err != nil {
		return 0, err
	}
	var name string
	if err := dbus.Store(body, &name); err != nil {
		return 0, fmt.Errorf("answer of the service to export: %w", err)
	}
	return receiveStream(ctx, name, out, progress)
}
