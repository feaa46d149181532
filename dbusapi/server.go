package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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
}

// progressEvery is the time between progress signals of a running operation.
const progressEvery = time.Second

// Serve puts the engine on the bus and returns when ctx ends or the bus goes away. Operations that were left unfinished go on.
func Serve(ctx context.Context, conn *dbus.Conn, e *endpoint.Engine, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{ctx: ctx, e: e, conn: conn, access: &access{conn: conn, group: o.Group}, log: o.Log}
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
	if o.Ready != nil {
		o.Ready()
	}
	return s.signals(changes)
}

// signals tells the bus what happens until the end.
func (s *server) signals(changes <-chan endpoint.Status) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	states := map[image.UUID]endpoint.State{}
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
			for _, op := range s.e.Operations() {
				st := op.Status()
				s.stateChange(states, st)
				if st.State == endpoint.InProgress {
					s.progress(st)
				}
			}
		}
	}
}

// stateChange emits a signal when the state differs from the one told last.
func (s *server) stateChange(states map[image.UUID]endpoint.State, st endpoint.Status) {
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

// exportAll makes the objects known to the connection: the root, and whatever operations there are, below three prefixes.
func (s *server) exportAll() error {
	standard := map[string]map[string]any{
		ifaceProperties: {"Get": s.get, "GetAll": s.getAll, "Set": s.set},
		ifaceIntrospect: {"Introspect": s.introspect},
	}
	root := map[string]map[string]any{
		ifaceMain:  {"list_disk_groups": s.listDiskGroups, "create_disk_group": s.createDiskGroup},
		ifaceDebug: {"dump_tasks": s.dumpTasks},
		ifaceOwn: {
			"probe": s.probe, "register": s.register, "registration": s.registration, "login": s.login, "logout": s.logout,
			"offers": s.offers, "media": s.media, "plan": s.plan, "start": s.start, "operations": s.operations,
			"operation": s.operation, "vms": s.vms, "rollback": s.rollback, "remove": s.remove, "export": s.export,
		},
	}
	group := map[string]map[string]any{ifaceGroup: {
		"list_disks": s.listDisks, "create_disk": s.createDisk, "start": s.startGroup, "stop": s.stopGroup,
		"pause": s.pauseGroup, "resume": s.resumeGroup, "delete": s.deleteGroup,
	}}
	disk := map[string]map[string]any{ifaceDisk: {"list_images": s.listImages, "create_image": s.createImage}}
	for iface, methods := range merge(standard, root) {
		if err := s.conn.ExportMethodTable(methods, rootPath, iface); err != nil {
			return err
		}
	}
	for prefix, table := range map[string]map[string]map[string]any{groupPrefix: group, diskPrefix: disk, imagePrefix: {}} {
		path := dbus.ObjectPath(strings.TrimSuffix(prefix, "/"))
		for iface, methods := range merge(standard, table) {
			if err := s.conn.ExportSubtreeMethodTable(methods, path, iface); err != nil {
				return err
			}
		}
	}
	return nil
}

func merge(a, b map[string]map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, m := range []map[string]map[string]any{a, b} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// introspect implements org.freedesktop.DBus.Introspectable.Introspect.
func (s *server) introspect(msg dbus.Message) (string, *dbus.Error) {
	path := pathOf(msg)
	if path == rootPath {
		return describe(xmlMain+xmlConfig()+xmlOwn, "diskgroup", "disk", "image"), nil
	}
	for prefix, children := range map[string]func(endpoint.Status) []dbus.ObjectPath{
		groupPrefix: func(st endpoint.Status) []dbus.ObjectPath { return []dbus.ObjectPath{groupPath(st.ID)} },
		diskPrefix:  diskPaths, imagePrefix: imagePaths,
	} {
		if string(path)+"/" != prefix {
			continue
		}
		var names []string
		for _, op := range s.e.Operations() {
			for _, p := range children(op.Status()) {
				names = append(names, strings.TrimPrefix(string(p), prefix))
			}
		}
		return describe("", names...), nil
	}
	t, ok := s.find(path)
	switch {
	case !ok:
		return "", noObject(path)
	case t.layer != nil:
		return describe(xmlImage), nil
	case t.disk != nil:
		return describe(xmlDisk), nil
	}
	return describe(xmlGroup), nil
}

func diskPaths(st endpoint.Status) (paths []dbus.ObjectPath) {
	for _, d := range st.Disks {
		paths = append(paths, diskPath(st.ID, d.UUID))
	}
	return paths
}

func imagePaths(st endpoint.Status) (paths []dbus.ObjectPath) {
	for _, d := range st.Disks {
		for _, l := range d.Layers {
			paths = append(paths, imagePath(st.ID, d.UUID, l.UUID))
		}
	}
	return paths
}
