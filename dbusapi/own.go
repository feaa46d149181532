package dbusapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/remotedisk"
	"disksync/syncclient"
)

// The methods below are those of our own interface. Structured values are JSON, the same that the command line prints with
// --json.

func asJSON(v any, err error) (string, *dbus.Error) {
	if err != nil {
		return "", own(err)
	}
	b, err := json.Marshal(v)
	return string(b), own(err)
}

func (s *server) probe(url string) (string, *dbus.Error) {
	f, err := s.e.Probe(s.ctx, url)
	return f.String(), own(err)
}

func (s *server) register(url, fingerprint string, replace bool) *dbus.Error {
	f, err := syncclient.ParseFingerprint(fingerprint)
	if err != nil {
		return own(usage("cannot register: %v", err))
	}
	_, err = s.e.Register(s.ctx, url, f, replace)
	return own(err)
}

func (s *server) registration() (string, *dbus.Error) { return asJSON(s.e.Registered(), nil) }

func (s *server) login(user, password string) *dbus.Error {
	if len(user) > maxText || len(password) > maxText {
		return own(usage("a user's name and a password have at most %d bytes", maxText))
	}
	return own(s.e.Login(s.ctx, user, password))
}

func (s *server) logout() *dbus.Error { return own(s.e.Logout(s.ctx)) }

func (s *server) offers() (string, *dbus.Error) { return asJSON(s.e.Offers(s.ctx)) }

func (s *server) media(folders []string) (string, *dbus.Error) {
	rep, err := s.e.Media(s.ctx, folders, "")
	if err != nil {
		return "", own(err)
	}
	return asJSON(rep.Media, nil)
}

func (s *server) mediaFor(folders []string, name string) (string, *dbus.Error) {
	return asJSON(s.e.Media(s.ctx, folders, name))
}

// parseRequest reads a request of one of the kinds.
func parseRequest(text string, kinds ...endpoint.Kind) (endpoint.Request, error) {
	var r endpoint.Request
	if len(text) > maxRequest {
		return r, usage("the request has %d bytes, at most %d make sense", len(text), maxRequest)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, usage("the request cannot be read: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, usage("the request goes on behind its end")
	}
	if !slices.Contains(kinds, r.Kind) {
		return r, usage("a request of kind %q; here it can be one of %q", r.Kind, kinds)
	}
	return r, nil
}

func usage(format string, args ...any) error {
	return problem.New("DS-USAGE", problem.Usage, nil, fmt.Sprintf(format, args...), "nothing was changed", "")
}

func (s *server) plan(request string) (string, *dbus.Error) {
	r, err := parseRequest(request, endpoint.Download, endpoint.Update, endpoint.Restore)
	if err != nil {
		return "", own(err)
	}
	return asJSON(s.e.Plan(s.ctx, r))
}

func (s *server) start(request string) (dbus.ObjectPath, *dbus.Error) {
	if err := s.roomForOne(); err != nil {
		return "", err
	}
	r, err := parseRequest(request, endpoint.Download, endpoint.Update, endpoint.Repair, endpoint.Verify, endpoint.Backup, endpoint.Restore)
	if err != nil {
		return "", own(err)
	}
	if r.Scheduled {
		return "", own(usage("only the service says that a backup is due"))
	}
	op, err := s.e.Start(r)
	if err != nil {
		return "", own(err)
	}
	return groupPath(op.ID()), nil
}

func (s *server) operations() (string, *dbus.Error) {
	all := []endpoint.Status{}
	for _, op := range s.e.Operations() {
		all = append(all, op.Status())
	}
	return asJSON(all, nil)
}

func (s *server) operation(path dbus.ObjectPath) (string, *dbus.Error) {
	t, ok := s.find(path)
	if !ok || t.disk != nil {
		return "", noObject(path)
	}
	if t.status.State == endpoint.Stopped && s.ctx.Err() != nil {
		// Nobody stopped it but the end of the service, and it goes on with the next one.
		return "", own(goneAway("the service was asked to end", nil))
	}
	return asJSON(t.status, nil)
}

func (s *server) vms() (string, *dbus.Error) { return asJSON(s.e.VMs()) }

func (s *server) backups() (string, *dbus.Error) { return asJSON(s.e.Backups(s.ctx)) }

func (s *server) backupsOf(vm string) (string, *dbus.Error) { return asJSON(s.e.BackupsOf(s.ctx, vm)) }

func (s *server) rollback(vm string) (string, *dbus.Error) { return asJSON(s.e.RollBack(vm)) }

func (s *server) remove(vm string) *dbus.Error { return own(s.e.Remove(vm)) }

// openDisk offers a disk on a socket, for the caller to read in it at random: what is in it is for the caller to make sense of, who has
// fewer rights than the service.
func (s *server) openDisk(vm string, point uint32, role string, sender dbus.Sender) (string, *dbus.Error) {
	var r image.Role
	if err := r.UnmarshalText([]byte(role)); err != nil {
		return "", own(usage("cannot open: %v", err))
	}
	uid, _, err := s.access.credentials(string(sender))
	if err != nil {
		return "", own(err)
	}
	if n := s.openDisks.Add(1); n > maxOpenDisks {
		s.openDisks.Add(-1)
		return "", dbusError(errLimits, "%d disks are being read; wait for some to be closed", n-1)
	}
	v, err := s.e.OpenDisk(s.ctx, vm, image.Version(point), r)
	if err != nil {
		s.openDisks.Add(-1)
		return "", own(err)
	}
	done := func() {
		if err := v.Close(); err != nil {
			s.log.Warn("disk that was read", "error", err)
		}
		s.openDisks.Add(-1)
	}
	name, err := s.offerConn(uid, func(conn *net.UnixConn) error { return remotedisk.Serve(conn, v) }, done)
	if err != nil {
		done()
	}
	return name, own(err)
}

// export offers the content of a disk on a socket, for the caller to fetch: the service writes no file where the caller
// could not.
func (s *server) export(vm, role string, sender dbus.Sender) (string, *dbus.Error) {
	var r image.Role
	if err := r.UnmarshalText([]byte(role)); err != nil {
		return "", own(usage("cannot export: %v", err))
	}
	uid, _, err := s.access.credentials(string(sender))
	if err != nil {
		return "", own(err)
	}
	name, err := s.offerStream(uid, func(ctx context.Context, out io.WriterAt) (int64, error) {
		return s.e.Export(ctx, vm, r, out, deploy.NewTally())
	})
	return name, own(err)
}
