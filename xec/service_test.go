package xec_test

import (
	_ "embed"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"disksync/internal/testkit"
)

const (
	testService  = "com.citrix.xenclient.xectest"
	typesIface   = "com.citrix.xenclient.xectest"
	configIface  = "com.citrix.xenclient.xectest.config"
	shadowIface  = "com.citrix.xenclient.xectest.shadow"
	propsIface   = "org.freedesktop.DBus.Properties"
	invalidArgs  = "org.freedesktop.DBus.Error.InvalidArgs"
	accessDenied = "org.freedesktop.DBus.Error.AccessDenied"
	errorName    = "org.freedesktop.DBus.Error.Failed"
	introspector = "org.freedesktop.DBus.Introspectable"
)

// serviceXML is written by hand, so that it does not depend on how a library
// generates introspection data.
//
//go:embed testdata/service.xml
var serviceXML string

// systemPolicy is the policy file for the test service.
const systemPolicy = "testdata/xectest.conf"

// service is a D-Bus service with one object that has methods and properties of
// all types.
type service struct {
	mu     sync.Mutex
	config map[string]dbus.Variant
}

// newService returns the service with its properties at their first values.
func newService() *service {
	return &service{config: map[string]dbus.Variant{
		"enable-usb-cache": dbus.MakeVariant(true),
		"download-cksize":  dbus.MakeVariant(int32(80)),
		"name":             dbus.MakeVariant("first"),
		"ratio":            dbus.MakeVariant(0.015),
		"tags":             dbus.MakeVariant([]string{"red", "green"}),
		"limits":           dbus.MakeVariant(map[string]int32{"up": 1, "down": 2}),
		"pair":             dbus.MakeVariant(pair{"a", 1}),
		"blob":             dbus.MakeVariant([]byte("\x00a\"1")),
		"path":             dbus.MakeVariant(dbus.ObjectPath("/vm/1")),
		"empty":            dbus.MakeVariant([]string{}),
	}}
}

// startService offers the service on a bus until the end of the test.
func startService(t *testing.T, bus *testkit.Bus) *service {
	t.Helper()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := newService()
	s.export(t, conn)
	if _, err := conn.RequestName(testService, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return s
}

// export makes the object answer on a connection.
func (s *service) export(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	describe := func() (string, *dbus.Error) { return serviceXML, nil }
	tables := map[string]map[string]any{
		introspector: {"Introspect": describe},
		propsIface:   {"Get": s.get, "GetAll": s.getAll, "Set": s.set},
		shadowIface: {"shared": func() (string, *dbus.Error) { return "shadow", nil },
			"only_here": func() (string, *dbus.Error) { return "only here", nil }},
		typesIface: typeMethods(),
	}
	for iface, table := range tables {
		if err := conn.ExportMethodTable(table, "/", iface); err != nil {
			t.Fatal(err)
		}
	}
	s.exportOdd(t, conn)
}

// exportOdd adds objects that behave as no object should.
func (s *service) exportOdd(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	deny := func(string) *dbus.Error { return dbus.NewError(accessDenied, []any{"not you"}) }
	described := func(xml string) map[string]any { return map[string]any{"Introspect": give(xml)} }
	objects := []struct {
		path  dbus.ObjectPath
		iface string
		table map[string]any
	}{
		{"/undescribed", propsIface, map[string]any{"Get": s.get, "GetAll": s.getAll, "Set": s.set}},
		{"/broken", introspector, described("<node><interface>")},
		{"/odd", introspector, map[string]any{"Introspect": give(int32(1))}},
		{"/odd", propsIface, map[string]any{
			"Get":    func(_, _ string) (string, string, *dbus.Error) { return "a", "b", nil },
			"GetAll": func(string) (string, *dbus.Error) { return "a", nil },
		}},
		{"/huge", introspector, described(`<node><interface name="a.b"><method name="m">` +
			strings.Repeat(`<arg type="a(`+strings.Repeat("i", 200)+`)"/>`, 2) + `</method></interface></node>`)},
		{"/silent", introspector, map[string]any{"Introspect": func() *dbus.Error { return nil }}},
		// getall fails for an interface that declares properties ...
		{"/refusing", introspector, described(`<node><interface name="` + configIface + `"/>` +
			`<interface name="a.b"><property name="p" type="s" access="read"/></interface></node>`)},
		{"/refusing", propsIface, map[string]any{"GetAll": s.getAll}},
		// ... and for one that does not, but not for lack of properties.
		{"/denied", introspector, described(`<node><interface name="a.b"/></node>`)},
		{"/denied", propsIface, map[string]any{"GetAll": deny}},
	}
	for _, o := range objects {
		if err := conn.ExportMethodTable(o.table, o.path, o.iface); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *service) get(iface, name string) (dbus.Variant, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.config[name]
	if !ok || iface != configIface {
		return dbus.Variant{}, dbus.NewError(invalidArgs, []any{"no property " + iface + "." + name})
	}
	return value, nil
}

func (s *service) getAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch iface {
	case configIface:
		return maps.Clone(s.config), nil
	case shadowIface, typesIface:
		return map[string]dbus.Variant{}, nil
	}
	// What many services do for the standard interfaces.
	return nil, dbus.NewError(invalidArgs, []any{"no interface " + iface})
}

func (s *service) set(iface, name string, value dbus.Variant) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.config[name]
	if !ok || iface != configIface {
		return dbus.NewError(invalidArgs, []any{"no property " + iface + "." + name})
	}
	if old.Signature() != value.Signature() {
		return dbus.NewError(invalidArgs, []any{"type " + value.Signature().String()})
	}
	if name == "pair" {
		// The library receives a structure as a list, and would send it on as one.
		var p pair
		if err := dbus.Store([]any{value.Value()}, &p); err != nil {
			return dbus.MakeFailedError(err)
		}
		value = dbus.MakeVariant(p)
	}
	s.config[name] = value
	return nil
}

// echo returns a method that returns its argument.
func echo[T any]() func(T) (T, *dbus.Error) {
	return func(v T) (T, *dbus.Error) { return v, nil }
}

// give returns a method that returns v.
func give[T any](v T) func() (T, *dbus.Error) {
	return func() (T, *dbus.Error) { return v, nil }
}

// Structures that travel over the bus.
type (
	pair struct {
		Name   string
		Number int32
	}
	member struct {
		Number int32
		Truth  bool
	}
	group struct {
		Name   string
		Member member
	}
)

// typeMethods returns one method for each type, and some for what else can happen.
func typeMethods() map[string]any {
	signature, _ := dbus.ParseSignature("a{sv}i") // a valid one
	fail := func(body ...any) func() *dbus.Error {
		return func() *dbus.Error { return dbus.NewError(errorName, body) }
	}
	return map[string]any{
		"echo_byte":          echo[byte](),
		"echo_bool":          echo[bool](),
		"echo_int16":         echo[int16](),
		"echo_uint16":        echo[uint16](),
		"echo_int32":         echo[int32](),
		"echo_uint32":        echo[uint32](),
		"echo_int64":         echo[int64](),
		"echo_uint64":        echo[uint64](),
		"echo_double":        echo[float64](),
		"echo_string":        echo[string](),
		"echo_path":          echo[dbus.ObjectPath](),
		"echo_bytes":         echo[[]byte](),
		"echo_strings":       echo[[]string](),
		"echo_paths":         echo[[]dbus.ObjectPath](),
		"echo_numbers":       echo[[][]int32](),
		"echo_doubles":       echo[[]float64](),
		"echo_dict":          echo[map[string]string](),
		"echo_numbered":      echo[map[uint32][]string](),
		"echo_group":         echo[group](),
		"echo_members":       echo[[]member](),
		"echo_settings":      echo[map[string]dbus.Variant](),
		"echo_rows":          echo[[]map[string]string](),
		"give_variant":       give(dbus.MakeVariant(dbus.MakeVariant(0.05))),
		"give_variants":      give([]dbus.Variant{dbus.MakeVariant("a"), dbus.MakeVariant([]int32{1, 2})}),
		"give_signature":     give(signature),
		"give_settings":      give(map[string]dbus.Variant{"b": dbus.MakeVariant(true), "a": dbus.MakeVariant("x")}),
		"give_truths":        give(map[string]bool{"yes": true}),
		"give_control_bytes": give("\x1b[31mred\x1b[0m\ttab"),
		"two_results":        func() (string, int32, *dbus.Error) { return "a", 2, nil },
		"no_result":          func() *dbus.Error { return nil },
		"add":                func(a, b int32) (int32, *dbus.Error) { return a + b, nil },
		"Reverse":            func(a, b string) (string, string, *dbus.Error) { return b, a, nil },
		"get":                give("a method named get"),
		"set":                func(v string) (string, *dbus.Error) { return "a method named set: " + v, nil },
		"shared":             give("types"),
		"fail":               fail("201:no such image"),
		"fail_silently":      fail(),
		"fail_at_length":     fail("one", int32(2), []string{"three", "four"}),
		"undeclared_result":  func() (string, *dbus.Error) { return "surprise", nil },
	}
}
