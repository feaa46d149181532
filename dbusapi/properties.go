package dbusapi

import (
	"errors"

	"github.com/godbus/dbus/v5"

	"disksync/config"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/internal/release"
)

// properties returns the values of an interface of the object at path.
func (s *server) properties(path dbus.ObjectPath, iface string) (map[string]dbus.Variant, *dbus.Error) {
	if path == rootPath {
		return s.rootProperties(iface)
	}
	t, ok := s.find(path)
	switch {
	case !ok && !isFolder(path):
		return nil, noObject(path)
	case !ok: // it has no properties
	case t.layer != nil && iface == ifaceImage:
		return imageProperties(t), nil
	case t.layer == nil && t.disk != nil && iface == ifaceDisk:
		return diskProperties(t), nil
	case t.disk == nil && iface == ifaceGroup:
		return groupProperties(t.status), nil
	}
	return nil, dbusError(errUnknownIface, "%s has no interface %s with properties", path, iface)
}

func variants(values map[string]any) map[string]dbus.Variant {
	out := map[string]dbus.Variant{}
	for k, v := range values {
		if s, ok := v.(string); ok {
			v = sendable(s)
		}
		out[k] = dbus.MakeVariant(v)
	}
	return out
}

func (s *server) rootProperties(iface string) (map[string]dbus.Variant, *dbus.Error) {
	switch iface {
	case ifaceConfig:
		values := map[string]any{}
		current := s.e.Settings()
		for _, d := range config.All() {
			if d.Exposed {
				values[d.Name] = current.Get(d.Name)
			}
		}
		return variants(values), nil
	case ifaceOwn:
		return variants(map[string]any{"release": release.Version, "state-folder": s.e.Dir(), "user": s.e.User()}), nil
	case ifaceMain, ifaceDebug:
		return map[string]dbus.Variant{}, nil
	}
	return nil, dbusError(errUnknownIface, "there is no interface %s", iface)
}

// percent returns how far an operation is, 0 … 1.
func percent(st endpoint.Status) float64 {
	if st.State == endpoint.Finished {
		return 1
	}
	p := st.Progress
	if p.Stage == deploy.StageTransfer && p.PlanTotal > 0 {
		p.Done, p.Total = p.PlanDone, p.PlanTotal
	}
	if p.Total <= 0 {
		return 0
	}
	return min(max(float64(p.Done)/float64(p.Total), 0), 1)
}

func groupProperties(st endpoint.Status) map[string]dbus.Variant {
	queue := int32(0)
	if st.State == endpoint.AdmctlStalled {
		queue = 1
	}
	stage := st.Progress.Stage
	if st.State == endpoint.Finished {
		stage = deploy.StageNone
	}
	return variants(map[string]any{
		"id": st.ID.String(), "state": string(st.State), "stage": string(stage), "percent-complete": percent(st),
		"upload-speed": 0.0, "dnload-speed": st.Wire, "admctl-qpos": queue, "admctl-retry-time": 0.0,
	})
}

func diskProperties(t target) map[string]dbus.Variant {
	return variants(map[string]any{
		"id": diskID(t.status.ID, t.disk.UUID), "group-id": t.status.ID.String(), "disk-uuid": t.disk.UUID.String(),
		"direction": t.disk.Direction, "state": string(t.disk.State()), "failure-reason": string(t.disk.Reason),
	})
}

func imageProperties(t target) map[string]dbus.Variant {
	l := t.layer
	return variants(map[string]any{
		"id": imageID(t.status.ID, t.disk.UUID, l.UUID), "disk-id": diskID(t.status.ID, t.disk.UUID), "image-uuid": l.UUID.String(),
		"image-url": l.URL, "transfer-url": l.TransferURL, "server-cert-path": l.ServerCert, "client-cert-path": l.ClientCert,
		"client-key-path": l.ClientKey, "encrypt-local-image": l.Encrypt, "transfer-context-id": l.Context,
	})
}

// get implements org.freedesktop.DBus.Properties.Get.
func (s *server) get(iface, name string, msg dbus.Message) (dbus.Variant, *dbus.Error) {
	values, err := s.properties(pathOf(msg), iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	v, ok := values[name]
	if !ok {
		return dbus.Variant{}, dbusError(errUnknownProp, "%s has no property %s", iface, name)
	}
	return v, nil
}

// getAll implements org.freedesktop.DBus.Properties.GetAll.
func (s *server) getAll(iface string, msg dbus.Message) (map[string]dbus.Variant, *dbus.Error) {
	return s.properties(pathOf(msg), iface)
}

// set implements org.freedesktop.DBus.Properties.Set. Only settings can be set.
func (s *server) set(iface, name string, value dbus.Variant, msg dbus.Message) *dbus.Error {
	values, err := s.properties(pathOf(msg), iface)
	if err != nil {
		return err
	}
	if _, ok := values[name]; !ok {
		return dbusError(errUnknownProp, "%s has no property %s", iface, name)
	}
	if iface != ifaceConfig {
		return dbusError(errReadOnly, "%s cannot be set", name)
	}
	if want := values[name].Signature(); value.Signature() != want {
		return dbusError(errInvalidArgs, "%s: %v: its type is %s, not %s", name, config.ErrValue, want, value.Signature())
	}
	if err := s.e.Set(name, value.Value()); errors.Is(err, config.ErrValue) {
		return dbusError(errInvalidArgs, "%v", err)
	} else if err != nil {
		return historic(err)
	}
	s.emit(rootPath, ifaceProperties+".PropertiesChanged", ifaceConfig,
		variants(map[string]any{name: s.e.Settings().Get(name)}), []string{})
	return nil
}

// pathOf returns the object that a message is for.
func pathOf(msg dbus.Message) dbus.ObjectPath {
	p, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	return p
}
