// Package metered learns from NetworkManager whether the connection is metered: whether what goes over it is paid for, or runs out.
package metered

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/internal/busconn"
)

// What NetworkManager is called, and what its property Metered says: 1 yes, 2 no, 3 and 4 the same as far as it can guess.
const (
	service    = "org.freedesktop.NetworkManager"
	path       = "/org/freedesktop/NetworkManager"
	property   = "Metered"
	yes        = 1
	guessedYes = 3

	properties = "org.freedesktop.DBus.Properties"
	bus        = "org.freedesktop.DBus"
)

const (
	// answerTime is how long NetworkManager is waited for. It answers at once, or is not there.
	answerTime = 2 * time.Second
	// tryAgain is how long to wait when there is no bus.
	tryAgain = time.Minute
)

// Watch calls tell with whether the connection is metered before it returns, and then after each change until ctx ends and the returned
// function is called, which waits for the end. Where no NetworkManager is, or it does not know, the connection is not metered. getenv is
// os.Getenv or stands for it.
func Watch(ctx context.Context, getenv func(string) string, log *slog.Logger, tell func(bool)) (wait func()) {
	w := &watcher{getenv: getenv, log: log, tell: tell}
	var work sync.WaitGroup
	signals := w.connect(ctx)
	work.Go(func() { w.run(ctx, signals) })
	return work.Wait
}

type watcher struct {
	getenv func(string) string
	log    *slog.Logger
	tell   func(bool)
	conn   *dbus.Conn // nil: there is none
}

// run follows changes.
func (w *watcher) run(ctx context.Context, signals chan *dbus.Signal) {
	defer w.close()
	for {
		if signals == nil {
			t := time.NewTimer(tryAgain)
			select {
			case <-t.C:
				signals = w.connect(ctx)
				continue
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
		select {
		case _, ok := <-signals:
			if !ok {
				w.close()
				signals = nil
				w.tell(false)
				continue
			}
			// Whatever the signal says and whoever sent it: NetworkManager itself is asked.
			for len(signals) > 0 {
				<-signals
			}
			w.ask(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// connect connects to the bus, tells how things are, and returns what tells of changes; nil: there is no bus.
func (w *watcher) connect(ctx context.Context) chan *dbus.Signal {
	conn, err := busconn.Connect(ctx, false, w.getenv)
	if err != nil {
		w.log.Debug("no bus to ask whether the connection is metered", "error", err)
		w.tell(false)
		return nil
	}
	w.conn = conn
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(service), dbus.WithMatchObjectPath(path), dbus.WithMatchInterface(properties), dbus.WithMatchMember("PropertiesChanged"),
			dbus.WithMatchArg(0, service)},
		{dbus.WithMatchSender(bus), dbus.WithMatchInterface(bus), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			w.log.Warn("changes of the connection will not be noticed", "error", err)
		}
	}
	w.ask(ctx)
	return signals
}

// ask asks NetworkManager, which is not started for that.
func (w *watcher) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var v dbus.Variant
	err := w.conn.Object(service, path).CallWithContext(ctx, properties+".Get", dbus.FlagNoAutoStart, service, property).Store(&v)
	n, _ := v.Value().(uint32)
	if err != nil {
		w.log.Debug("NetworkManager does not say whether the connection is metered", "error", err)
	}
	w.tell(err == nil && (n == yes || n == guessedYes))
}

func (w *watcher) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}
