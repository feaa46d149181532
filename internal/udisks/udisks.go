// Package udisks learns from UDisks2 which removable media are in the machine, and has it mount and unmount them. It speaks the D-Bus
// interface of UDisks2 2.x (http://storaged.org/doc/udisks2-api/latest/).
package udisks

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/internal/busconn"
)

// Names of UDisks2 and of the bus.
const (
	service     = "org.freedesktop.UDisks2"
	root        = "/org/freedesktop/UDisks2"
	objects     = root + "/block_devices/"
	drives      = root + "/drives/"
	ifaceBlock  = service + ".Block"
	ifaceDrive  = service + ".Drive"
	ifaceFS     = service + ".Filesystem"
	ifaceTable  = service + ".PartitionTable"
	managed     = "org.freedesktop.DBus.ObjectManager"
	properties  = "org.freedesktop.DBus.Properties"
	bus         = "org.freedesktop.DBus"
	errPrefix   = service + ".Error."
	errNoOwner  = "org.freedesktop.DBus.Error.NameHasNoOwner"
	errUnknown  = "org.freedesktop.DBus.Error.ServiceUnknown"
	errNoObject = "org.freedesktop.DBus.Error.UnknownObject"
)

const (
	// answerTime is how long UDisks2 may take to list what there is.
	answerTime = 10 * time.Second
	// tryAgain is how long to wait when there is no bus.
	tryAgain = time.Minute
	// maxObjects bounds what is kept of what UDisks2 says.
	maxObjects = 4096
)

// Client follows UDisks2. It is safe for concurrent use.
type Client struct {
	getenv func(string) string
	log    *slog.Logger
	tell   func()

	mu      sync.Mutex
	conn    *dbus.Conn // nil: there is none
	there   bool       // UDisks2 answers
	objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
}

// Watch connects to the system bus, asks what there is, and calls tell after each change until ctx ends; then wait returns. When it
// returns, the state at its call is known. getenv is os.Getenv or stands for it. tell must not call the Client.
func Watch(ctx context.Context, getenv func(string) string, log *slog.Logger, tell func()) (c *Client, wait func()) {
	c = &Client{getenv: getenv, log: log, tell: tell}
	var work sync.WaitGroup
	signals := c.connect(ctx)
	work.Go(func() { c.run(ctx, signals) })
	return c, work.Wait
}

// run follows changes.
func (c *Client) run(ctx context.Context, signals chan *dbus.Signal) {
	defer c.close()
	for {
		if signals == nil {
			t := time.NewTimer(tryAgain)
			select {
			case <-t.C:
				if signals = c.connect(ctx); signals != nil {
					c.tell()
				}
				continue
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
		select {
		case s, ok := <-signals:
			if !ok {
				c.close()
				signals = nil
				c.tell()
				continue
			}
			if c.note(ctx, s) {
				c.tell()
			}
		case <-ctx.Done():
			return
		}
	}
}

// connect connects to the bus and learns what there is; nil: there is no bus.
func (c *Client) connect(ctx context.Context) chan *dbus.Signal {
	conn, err := busconn.Connect(ctx, false, c.getenv)
	if err != nil {
		c.log.Debug("no bus to ask for media", "error", err)
		return nil
	}
	signals := make(chan *dbus.Signal, 256)
	conn.Signal(signals)
	// First the signals, then the question: nothing that happens between is missed.
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(managed), dbus.WithMatchObjectPath(root)},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchPathNamespace(root)},
		{dbus.WithMatchSender(bus), dbus.WithMatchInterface(bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			c.log.Warn("media that come and go will not be noticed", "error", err)
		}
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	c.list(ctx)
	return signals
}

// list asks what there is. UDisks2 is started by the bus where it is installed.
func (c *Client) list(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	all := map[dbus.ObjectPath]map[string]map[string]dbus.Variant{}
	err := c.connection().Object(service, root).CallWithContext(ctx, managed+".GetManagedObjects", 0).Store(&all)
	if err != nil {
		c.log.Debug("UDisks2 does not say which media there are", "error", err)
	}
	maps.DeleteFunc(all, func(p dbus.ObjectPath, _ map[string]map[string]dbus.Variant) bool { return !concerns(p) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.there = err == nil && len(all) <= maxObjects
	c.objects = all
	if !c.there {
		c.objects = nil
	}
}

// concerns reports whether an object is a block device or a drive. Every operation of UDisks2 makes an object of its own, too.
func concerns(p dbus.ObjectPath) bool {
	return strings.HasPrefix(string(p), objects) || strings.HasPrefix(string(p), drives)
}

// note takes a signal in, and reports whether it changed anything.
func (c *Client) note(ctx context.Context, s *dbus.Signal) bool {
	switch s.Name {
	case bus + ".NameOwnerChanged":
		if s.Sender != bus {
			return false
		}
		c.list(ctx)
		return true
	case managed + ".InterfacesAdded":
		var path dbus.ObjectPath
		var faces map[string]map[string]dbus.Variant
		if dbus.Store(s.Body, &path, &faces) != nil || !concerns(path) {
			return false
		}
		return c.change(path, func(o map[string]map[string]dbus.Variant) { maps.Copy(o, faces) })
	case managed + ".InterfacesRemoved":
		var path dbus.ObjectPath
		var faces []string
		if dbus.Store(s.Body, &path, &faces) != nil || !concerns(path) {
			return false
		}
		return c.change(path, func(o map[string]map[string]dbus.Variant) {
			for _, f := range faces {
				delete(o, f)
			}
		})
	case properties + ".PropertiesChanged":
		var face string
		var changed map[string]dbus.Variant
		var invalid []string
		if dbus.Store(s.Body, &face, &changed, &invalid) != nil || !concerns(s.Path) || !strings.HasPrefix(face, service+".") {
			return false
		}
		return c.change(s.Path, func(o map[string]map[string]dbus.Variant) {
			if o[face] == nil {
				return
			}
			now := maps.Clone(o[face])
			for _, name := range invalid {
				delete(now, name)
			}
			maps.Copy(now, changed)
			o[face] = now
		})
	}
	return false
}

// change changes an object; one without interfaces is gone.
func (c *Client) change(path dbus.ObjectPath, do func(map[string]map[string]dbus.Variant)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.there {
		return false
	}
	o := maps.Clone(c.objects[path])
	if o == nil {
		o = map[string]map[string]dbus.Variant{}
	}
	do(o)
	if len(o) == 0 {
		delete(c.objects, path)
	} else if len(c.objects) < maxObjects {
		c.objects[path] = o
	}
	return true
}

func (c *Client) connection() *dbus.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

func (c *Client) close() {
	c.mu.Lock()
	conn := c.conn
	c.conn, c.there, c.objects = nil, false, nil
	c.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}
