package dbusapi

import (
	"fmt"
	"maps"
	"sync"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
)

const (
	busName   = "org.freedesktop.DBus"
	ownerGone = busName + ".NameOwnerChanged"
)

// lenders sees to it that keys are lent no longer than who lent them is on the bus: a caller that is killed returns nothing. It is safe for
// concurrent use.
type lenders struct {
	conn    *dbus.Conn
	e       *endpoint.Engine
	signals chan *dbus.Signal
	end     chan struct{}
	ended   sync.WaitGroup

	mu      sync.Mutex
	watched map[string]bool // unique names on the bus, which no other connection ever gets
}

func newLenders(conn *dbus.Conn, e *endpoint.Engine) *lenders {
	l := &lenders{conn: conn, e: e, signals: make(chan *dbus.Signal, 16), end: make(chan struct{}), watched: map[string]bool{}}
	conn.Signal(l.signals)
	l.ended.Go(l.watch)
	return l
}

// watch forgets the keys of those who leave.
func (l *lenders) watch() {
	for {
		select {
		case <-l.end:
			return
		case sig, ok := <-l.signals:
			if !ok {
				return // with the bus; the service ends
			}
			var name, before, after string
			// Anybody can send a signal of that name; the bus says who did.
			if sig.Sender == busName && sig.Name == ownerGone && dbus.Store(sig.Body, &name, &before, &after) == nil && after == "" {
				l.forget(name)
			}
		}
	}
}

// close forgets what is lent still.
func (l *lenders) close() {
	l.conn.RemoveSignal(l.signals)
	close(l.end)
	l.ended.Wait()
	l.mu.Lock()
	left := maps.Clone(l.watched)
	l.mu.Unlock()
	for name := range left {
		l.forget(name)
	}
}

// lend lends keys until the lender returns them or leaves the bus.
func (l *lenders) lend(lender, keys string) ([]string, error) {
	recipients, err := l.e.LendBackupKeys(lender, keys)
	if err != nil {
		return nil, err
	}
	if err := l.keepWatch(lender); err != nil {
		l.forget(lender)
		return nil, err
	}
	return recipients, nil
}

func (l *lenders) keepWatch(lender string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.watched[lender] {
		if err := l.conn.AddMatchSignal(matchLeaving(lender)...); err != nil {
			return fmt.Errorf("watch who lends keys: %w", err)
		}
		l.watched[lender] = true
	}
	// From here on the bus tells. It may have left before.
	var there bool
	if err := l.conn.BusObject().Call(busName+".NameHasOwner", 0, lender).Store(&there); err != nil {
		return fmt.Errorf("watch who lends keys: %w", err)
	}
	if !there {
		return fmt.Errorf("%s, who lent keys, has left the bus", lender)
	}
	return nil
}

// forget forgets the keys of a lender, who is watched no longer.
func (l *lenders) forget(lender string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.e.ReturnAllBackupKeys(lender)
	if l.watched[lender] {
		delete(l.watched, lender)
		_ = l.conn.RemoveMatchSignal(matchLeaving(lender)...) // fails when the bus has gone, and the rule with it
	}
}

func matchLeaving(lender string) []dbus.MatchOption {
	return []dbus.MatchOption{
		dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, lender),
	}
}
