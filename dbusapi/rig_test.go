package dbusapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/cache"
	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/internal/mediachild"
	"disksync/internal/testkit"
	"disksync/internal/testkit/lab"
	"disksync/xec"
)

// Names, written out: what is in the table of the original must not follow the code.
const (
	service   = "com.citrix.xenclient.disksyncmgr"
	mainFace  = "com.citrix.xenclient.disksyncmgr"
	confFace  = "com.citrix.xenclient.disksyncmgr.config"
	debugFace = "com.citrix.xenclient.disksyncmgr.debug"
	groupFace = "com.citrix.xenclient.disksyncmgr.diskgroup"
	diskFace  = "com.citrix.xenclient.disksyncmgr.disk"
	imageFace = "com.citrix.xenclient.disksyncmgr.image"
	ownFace   = "org.disksync.Endpoint1"
	propFace  = "org.freedesktop.DBus.Properties"
)

// rig is the service on a private session bus, in this process.
type rig struct {
	t    *testing.T
	bus  *testkit.Bus
	dir  string // the state folder
	log  *testkit.Buffer
	stop func() error // ends the service
	conn *dbus.Conn   // a client's
}

// newRig starts a bus and the service on it.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, bus: testkit.StartBus(t, testkit.SessionBus), dir: filepath.Join(t.TempDir(), "state"), log: &testkit.Buffer{}}
	r.start()
	r.conn = r.dial()
	return r
}

// start starts the service; what it did before in its state folder is there.
func (r *rig) start() {
	r.t.Helper()
	conn := r.dial()
	e, err := endpoint.Open(context.Background(), r.options())
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() {
		served <- dbusapi.Serve(ctx, conn, e, dbusapi.Options{Log: r.logger(), Ready: func() { close(ready) }})
	}()
	select {
	case <-ready:
	case err := <-served:
		r.t.Fatal(err)
	}
	r.stop = sync.OnceValue(func() error {
		cancel()
		err := <-served
		_ = conn.Close()
		if closeErr := e.Close(); err == nil {
			err = closeErr
		}
		return err
	})
	r.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			r.t.Errorf("serve: %v", err)
		}
		if r.t.Failed() {
			r.t.Logf("the service said:\n%s", r.log)
		}
	})
}

// restart ends the service and starts it again.
func (r *rig) restart() {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func (r *rig) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// options are those of an engine that sees no media of this machine.
func (r *rig) options() endpoint.Options {
	return endpoint.Options{Dir: r.dir, Log: r.logger(), Finder: noMedia(r.t),
		Reader: []string{shipped.Path(r.t, "disksyncmgr"), "disksyncmgr", mediachild.Argument}}
}

func noMedia(t *testing.T) cache.Finder {
	t.Helper()
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "self"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "self", "mountinfo"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return cache.Finder{Proc: proc}
}

// dial returns a connection to the bus.
func (r *rig) dial() *dbus.Conn {
	r.t.Helper()
	conn, err := dbus.Connect(r.bus.Address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// client returns the Client that the command line uses.
func (r *rig) client() *dbusapi.Client {
	r.t.Helper()
	name, address, _ := strings.Cut(r.bus.Env()[0], "=")
	r.t.Setenv(name, address)
	c, err := dbusapi.Dial(r.t.Context(), true)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// call calls a method with the library. name has the interface before the last dot.
func (r *rig) call(path dbus.ObjectPath, name string, args ...any) *dbus.Call {
	return r.conn.Object(service, path).CallWithContext(r.t.Context(), name, 0, args...)
}

// must calls a method that has one result of type T.
func must[T any](r *rig, path dbus.ObjectPath, name string, args ...any) T {
	r.t.Helper()
	var v T
	if err := r.call(path, name, args...).Store(&v); err != nil {
		r.t.Fatalf("%s on %s: %v", name, path, err)
	}
	return v
}

// do calls a method that has no result.
func (r *rig) do(path dbus.ObjectPath, name string, args ...any) {
	r.t.Helper()
	if err := r.call(path, name, args...).Err; err != nil {
		r.t.Fatalf("%s on %s: %v", name, path, err)
	}
}

// refused calls a method and wants an error with that name, whose text has all the words.
func (r *rig) refused(errorName string, words []string, path dbus.ObjectPath, name string, args ...any) {
	r.t.Helper()
	wantError(r.t, r.call(path, name, args...).Err, errorName, words...)
}

func wantError(t *testing.T, err error, name string, words ...string) {
	t.Helper()
	e, ok := err.(dbus.Error)
	if !ok || e.Name != name {
		t.Errorf("error %#v, want %s", err, name)
		return
	}
	text := fmt.Sprint(e.Body...)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("error text %q does not have %q", text, w)
		}
	}
}

// property reads a property.
func property[T any](r *rig, path dbus.ObjectPath, face, name string) T {
	r.t.Helper()
	v := must[dbus.Variant](r, path, propFace+".Get", face, name)
	out, ok := v.Value().(T)
	if !ok {
		r.t.Fatalf("property %s of %s is %v", name, path, v)
	}
	return out
}

// tool runs a program that is no part of the project on the bus, and returns what it printed and whether it succeeded.
func (r *rig) tool(name string, args ...string) (string, bool) {
	r.t.Helper()
	cmd := exec.Command(testkit.Tool(r.t, name), args...)
	cmd.Env = append(os.Environ(), r.bus.Env()...)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// gdbus calls a method with gdbus, which takes values in the text form of GVariant.
func (r *rig) gdbus(path, method string, args ...string) (string, bool) {
	r.t.Helper()
	return r.tool("gdbus", append([]string{"call", "--session", "-d", service, "-o", path, "-m", method}, args...)...)
}

// busctl runs busctl.
func (r *rig) busctl(args ...string) (string, bool) {
	r.t.Helper()
	return r.tool("busctl", append([]string{"--user"}, args...)...)
}

// xec runs our xec.
func (r *rig) xec(args ...string) (stdout string, exit int) {
	r.t.Helper()
	var out, errs bytes.Buffer
	p := xec.NewProgram(&out, &errs)
	p.Getenv = func(name string) string {
		for _, e := range r.bus.Env() {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	p.Log = func([]string) {}
	exit = p.Run(r.t.Context(), append([]string{"--session", "-s", "disksyncmgr"}, args...))
	return out.String() + errs.String(), exit
}

// logIn registers the endpoint with the lab over the line and logs alice in.
func (r *rig) logIn(l *lab.Lab, url string) {
	r.t.Helper()
	r.do("/", ownFace+".register", url, l.Fingerprint.String(), false)
	r.do("/", ownFace+".login", "alice", lab.Password)
}

// begin starts an operation of our own interface and returns its group.
func (r *rig) begin(req endpoint.Request) dbus.ObjectPath {
	r.t.Helper()
	text, err := json.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return must[dbus.ObjectPath](r, "/", ownFace+".start", string(text))
}

// await waits until a group is in one of the states, and, when it is one to rest in, at rest.
func (r *rig) await(group dbus.ObjectPath, states ...endpoint.State) {
	r.t.Helper()
	resting := []endpoint.State{endpoint.Stopped, endpoint.Paused, endpoint.Finished, endpoint.Failed}
	testkit.Until(r.t, fmt.Sprintf("%s in one of the states %v", group, states), func() bool {
		var st endpoint.Status
		if err := json.Unmarshal([]byte(must[string](r, "/", ownFace+".operation", group)), &st); err != nil {
			r.t.Fatal(err)
		}
		return slices.Contains(states, st.State) && !(st.Active && slices.Contains(resting, st.State))
	})
}

func dbusPath(s string) dbus.ObjectPath { return dbus.ObjectPath(s) }
