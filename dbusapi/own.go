package dbusapi

import (
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
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

func (s *server) probe(url string, sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	f, err := s.e.Probe(s.ctx, url)
	return f.String(), own(err)
}

func (s *server) register(url, fingerprint string, replace bool, sender dbus.Sender) *dbus.Error {
	if err := s.access.check(sender); err != nil {
		return err
	}
	f, err := syncclient.ParseFingerprint(fingerprint)
	if err != nil {
		return own(problem.New("DS-USAGE", problem.Usage, err, "cannot register", "", ""))
	}
	_, err = s.e.Register(s.ctx, url, f, replace)
	return own(err)
}

func (s *server) registration() (string, *dbus.Error) { return asJSON(s.e.Registered(), nil) }

func (s *server) login(user, password string, sender dbus.Sender) *dbus.Error {
	if err := s.access.check(sender); err != nil {
		return err
	}
	return own(s.e.Login(s.ctx, user, password))
}

func (s *server) logout(sender dbus.Sender) *dbus.Error {
	if err := s.access.check(sender); err != nil {
		return err
	}
	return own(s.e.Logout(s.ctx))
}

func (s *server) offers(sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	return asJSON(s.e.Offers(s.ctx))
}

func (s *server) media(folders []string, sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	return asJSON(s.e.Media(s.ctx, folders))
}

func parseRequest(text string) (endpoint.Request, error) {
	var r endpoint.Request
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, problem.New("DS-USAGE", problem.Usage, err, "the request cannot be read", "", "")
	}
	if r.Kind == endpoint.Layers {
		return r, problem.New("DS-USAGE", problem.Usage, nil, "single layers are asked for with create_disk_group", "", "")
	}
	return r, nil
}

func (s *server) plan(request string, sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	r, err := parseRequest(request)
	if err != nil {
		return "", own(err)
	}
	return asJSON(s.e.Plan(s.ctx, r))
}

func (s *server) start(request string, sender dbus.Sender) (dbus.ObjectPath, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	r, err := parseRequest(request)
	if err != nil {
		return "", own(err)
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
	return asJSON(t.status, nil)
}

func (s *server) vms() (string, *dbus.Error) { return asJSON(s.e.VMs()) }

func (s *server) rollback(vm string, sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	return asJSON(s.e.RollBack(vm))
}

func (s *server) remove(vm string, sender dbus.Sender) *dbus.Error {
	if err := s.access.check(sender); err != nil {
		return err
	}
	return own(s.e.Remove(vm))
}

// export offers the content of a disk on a socket, for the caller to fetch: the service writes no file where the caller
// could not.
func (s *server) export(vm, role string, sender dbus.Sender) (string, *dbus.Error) {
	if err := s.access.check(sender); err != nil {
		return "", err
	}
	var r image.Role
	if err := r.UnmarshalText([]byte(role)); err != nil {
		return "", own(problem.New("DS-USAGE", problem.Usage, err, "cannot export", "", ""))
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
