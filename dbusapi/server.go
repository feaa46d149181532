package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
)

// Options configures Serve.
type Options struct {
	// Group is the group whose members may change things; empty: nobody but root and the service's own user.
	Group string
	Log   *slog.Logger // nil: nothing is logged
	// Ready is called when the service has its name and answers; nil: nobody is told.
	Ready func()
}

type server struct {
	ctx    context.Context // of Serve; calls that take long end with it
	e      *endpoint.Engine
	conn   *dbus.Conn
	access *access
	log    *slog.Logger
	// lenders are the callers whose keys open backups.
	lenders *lenders

	mu sync.Mutex // held to begin a stream, and to end ctx, after which none begins
	// streams are the disks that are being sent to callers.
	streams   sync.WaitGroup
	openDisks atomic.Int64 // that callers read in
}

// progressEvery is the time between progress signals of a running operation.
const progressEvery = time.Second

// Serve puts the engine on the bus and returns when ctx ends or the bus goes away. Operations that were left unfinished go on;
// those that run at the end are stopped, and go on with the next Serve.
func Serve(ctx context.Context, conn *dbus.Conn, e *endpoint.Engine, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{ctx: ctx, e: e, conn: conn, access: &access{conn: conn, group: o.Group}, log: o.Log, lenders: newLenders(conn, e)}
	defer s.lenders.close()
	if err := s.exportAll(); err != nil {
		return fmt.Errorf("export objects: %w", err)
	}
	reply, err := conn.RequestName(Service, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = errors.New("another process has it")
	}
	if err != nil {
		return problem.New("DS-BUS-NAME", problem.Busy, err, "cannot get the name "+Service+" on the bus", "nothing was changed",
			"end the other service; on the system bus, install the policy file that comes with the program")
	}
	changes := make(chan endpoint.Status, 256)
	end := e.Watch(func(st endpoint.Status) {
		select {
		case changes <- st:
		default: // a bus that takes no signals must not stop the engine; the next tick tells the state
		}
	})
	defer end()
	e.ResumeAll()
	e.KeepBackups(ctx)
	if o.Ready != nil {
		o.Ready()
	}
	states := told{}
	err = s.signals(changes, states)
	s.mu.Lock()
	cancel()
	s.mu.Unlock()
	s.streams.Wait()
	for _, op := range e.Operations() {
		if op.Status().Active {
			op.Stop()
			_ = op.Wait(context.Background()) // it ends as soon as what is being written is written
		}
	}
	s.tellRest(changes, states)
	return err
}

// signals tells the bus what happens until the end.
func (s *server) signals(changes <-chan endpoint.Status, states told) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return nil
		case <-s.conn.Context().Done():
			if s.ctx.Err() != nil {
				return nil
			}
			return problem.New("DS-BUS-GONE", problem.Unreachable, nil, "the bus has gone", "what was done is kept", "start the service again")
		case st := <-changes:
			s.stateChange(states, st)
		case <-tick.C:
			s.look(changes, states)
		}
	}
}

// told is the state of each group that the bus was told last.
type told map[image.UUID]endpoint.State

// look tells what nobody told: progress, a line that is interrupted, and changes that there was no room for.
func (s *server) look(changes <-chan endpoint.Status, states told) {
	// What has happened is told before what is: a change that waits is older than the state that we find.
	s.tellRest(changes, states)
	there := map[image.UUID]bool{}
	for _, op := range s.e.Operations() {
		st := op.Status()
		there[st.ID] = true
		s.stateChange(states, st)
		if st.State == endpoint.InProgress {
			s.progress(st)
		}
	}
	maps.DeleteFunc(states, func(id image.UUID, _ endpoint.State) bool { return !there[id] })
}

// tellRest tells the changes that wait.
func (s *server) tellRest(changes <-chan endpoint.Status, states told) {
	for len(changes) > 0 {
		s.stateChange(states, <-changes)
	}
}

// stateChange emits a signal when the state differs from the one told last.
func (s *server) stateChange(states told, st endpoint.Status) {
	if states[st.ID] == st.State {
		return
	}
	states[st.ID] = st.State
	if st.State == endpoint.Finished {
		s.progress(st)
	}
	s.emit(rootPath, ifaceMain+".disk_group_state_change", st.ID.String(), string(st.State), groupPath(st.ID))
}

func (s *server) progress(st endpoint.Status) {
	s.emit(rootPath, ifaceMain+".disk_group_progress", st.ID.String(), string(st.Progress.Stage), percent(st), 0.0, st.Wire, groupPath(st.ID))
}

func (s *server) emit(path dbus.ObjectPath, name string, values ...any) {
	if err := s.conn.Emit(path, name, values...); err != nil {
		s.log.Debug("signal not sent", "signal", name, "error", err)
	}
}
