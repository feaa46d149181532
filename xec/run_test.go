package xec_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
	"disksync/xec"
)

// outcome is all that can be seen of a run.
type outcome struct {
	Stdout, Stderr string
	Exit           int
}

// run runs xec with an environment of its own. It neither waits for services nor
// logs.
func run(env []string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	p := quietProgram(&stdout, &stderr, env)
	exit := p.Run(context.Background(), args)
	return outcome{stdout.String(), stderr.String(), exit}
}

// quietProgram returns xec without its effects on the world.
func quietProgram(stdout, stderr *bytes.Buffer, env []string) *xec.Program {
	p := xec.NewProgram(stdout, stderr)
	p.Getenv = lookup(env)
	p.Pause = func(context.Context, int) bool { return false }
	p.Log = func([]string) {}
	return p
}

// lookup returns a getenv for the entries of env.
func lookup(env []string) func(string) string {
	return func(name string) string {
		for _, entry := range env {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// printed is the outcome of a run that succeeds.
func printed(stdout string) outcome { return outcome{Stdout: stdout} }

// answered is the outcome of a run in which the service answers with an error.
func answered(stdout string) outcome { return outcome{Stdout: stdout, Exit: 1} }

// complained is the outcome of a run in which xec itself finds something wrong.
func complained(stderr string) outcome { return outcome{Stderr: stderr, Exit: 1} }

// buses lists the ways to reach the test service: the kind of the bus and the
// options that select it.
var buses = []struct {
	name     string
	kind     testkit.BusKind
	policies []string
	options  []string
}{
	{name: "session bus", kind: testkit.SessionBus, options: []string{"--session"}},
	{name: "system bus", kind: testkit.SystemBus, policies: []string{systemPolicy}},
}

// onEachBus runs a test on a session bus and on a system bus. xec runs xec with
// the options that select the test service.
func onEachBus(t *testing.T, test func(t *testing.T, xec func(args ...string) outcome)) {
	for _, b := range buses {
		t.Run(b.name, func(t *testing.T) {
			bus := testkit.StartBus(t, b.kind, b.policies...)
			startService(t, bus)
			test(t, func(args ...string) outcome {
				all := append([]string{}, b.options...)
				all = append(all, "-s", testService)
				return run(bus.Env(), append(all, args...)...)
			})
		})
	}
}

func check(t *testing.T, want, got outcome) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestCallsOfAllTypes(t *testing.T) {
	tests := []struct {
		method, argument, want string
	}{
		{"echo-byte", "255", "255\n"},
		{"echo-bool", "1", "true\n"},
		{"echo-bool", "false", "false\n"},
		{"echo-int16", "-32768", "-32768\n"},
		{"echo-uint16", "65535", "65535\n"},
		{"echo-int32", "-2147483648", "-2147483648\n"},
		{"echo-uint32", "4294967295", "4294967295\n"},
		{"echo-int64", "-9223372036854775808", "-9223372036854775808\n"},
		{"echo-uint64", "18446744073709551615", "18446744073709551615\n"},
		{"echo-int32", "12abc", "12\n"},
		{"echo-double", "1", "1.0\n"},
		{"echo-double", "0.05", "5.0e-2\n"},
		{"echo-double", "12345678.5", "1.23456785e7\n"},
		{"echo-string", "", "\n"},
		{"echo-string", ` "ü" ✓ `, " \"ü\" ✓ \n"},
		{"echo-string", "two\nlines", "two\nlines\n"},
		{"echo-path", "/a/b_c", "/a/b_c\n"},
		{"echo-bytes", "[0, 97, 34, 92, 200, 49]", `"\NULa\"\\\200\&1"` + "\n"},
		{"echo-bytes", "[]", "\"\"\n"},
		{"echo-strings", `["a", 'b "c"', "d\"\\"]`, "a\nb \"c\"\nd\"\\\n"},
		{"echo-strings", "[]", "\n"},
		{"echo-paths", `["/", "/a"]`, "/\n/a\n"},
		{"echo-numbers", "[[1, 2], [3]]", "1\n2\n3\n"},
		{"echo-doubles", "[1, 0.5, -0.01]", "1.0\n0.5\n-1.0e-2\n"},
		{"echo-dict", "{}", "{\n}\n"},
		{"echo-dict", `{"b" : "2", "a" : "1"}`,
			"{\n  \"a\"                            = 1\n  \"b\"                            = 2\n}\n"},
		{"echo-numbered", `{10 : ["x", "y"], 9 : []}`,
			"{\n  \"9\"                            = \n  \"10\"                           = x\ny\n}\n"},
		{"echo-group", `["a", [1, true]]`, "a\n1\ntrue\n"},
		{"echo-members", "[[1, true], [2, false]]", "1\ntrue\n2\nfalse\n"},
		{"echo-settings", "{}", "{\n}\n"},
		{"echo-rows", `[{"a" : "1"}, {}]`, "{\n  \"a\"                            = 1\n}\n{\n}\n"},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		for _, test := range tests {
			t.Run(test.method+" "+test.argument, func(t *testing.T) {
				check(t, printed(test.want), xec(test.method, test.argument))
			})
		}
	})
}

func TestCalls(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want outcome
	}{
		{"variant", []string{"give-variant"}, printed("5.0e-2\n")},
		{"variants", []string{"give-variants"}, printed("a\n1\n2\n")},
		{"signature", []string{"give-signature"}, printed("a{sv}i\n")},
		{"settings", []string{"give-settings"},
			printed("{\n  \"a\"                            = x\n  \"b\"                            = true\n}\n")},
		{"truths", []string{"give-truths"}, printed("{\n  \"yes\"                          = true\n}\n")},
		{"control characters stay", []string{"give-control-bytes"}, printed("\x1b[31mred\x1b[0m\ttab\n")},
		{"two results", []string{"two-results"}, printed("a\n2\n")},
		{"no result", []string{"no-result"}, printed("")},
		{"undeclared result", []string{"undeclared-result"}, printed("surprise\n")},
		{"underscores", []string{"two_results"}, printed("a\n2\n")},
		{"two arguments", []string{"add", "1", "-3"}, printed("-2\n")},
		{"capitals", []string{"Reverse", "a", "b"}, printed("b\na\n")},
		{"standard interface", []string{"-i", propsIface, "Get", configIface, "download-cksize"}, printed("80\n")},
		{"method get", []string{"get"}, printed("a method named get\n")},
		{"method set", []string{"set", "x"}, printed("a method named set: x\n")},
		{"first interface", []string{"shared"}, printed("types\n")},
		{"given interface", []string{"-i", shadowIface, "shared"}, printed("shadow\n")},
		{"other interface", []string{"only-here"}, printed("only here\n")},

		{"error", []string{"fail"}, answered(errorName + ": 201:no such image\n")},
		{"error without text", []string{"fail-silently"}, answered(errorName + ": \n")},
		{"error with values", []string{"fail-at-length"}, answered(errorName + ": one, 2, three\nfour\n")},
		{"object without description", []string{"-o", "/undescribed", "shared"},
			answered("org.freedesktop.DBus.Error.UnknownInterface: Object does not implement the interface '" +
				introspector + "'\n")},
		{"declared but not implemented", []string{"unimplemented"},
			answered("org.freedesktop.DBus.Error.UnknownMethod: Unknown / invalid method 'unimplemented'\n")},

		{"unknown method", []string{"launch-it"},
			complained("xec: method launch_it not found in any of the interfaces\n")},
		{"unknown method of interface", []string{"-i", shadowIface, "launch-it"},
			complained("xec: method " + shadowIface + ".launch_it not found\n")},
		{"unknown interface", []string{"-i", "a.b", "shared"}, complained("xec: interface a.b not found\n")},
		{"empty interface", []string{"-i", "", "shared"}, complained("xec: interface  not found\n")},
		{"too few arguments", []string{"add", "1"},
			complained("xec: method add expects 2 args, but 1 were given\n")},
		{"too many arguments", []string{"no-result", "x", "y"},
			complained("xec: method no_result expects 0 args, but 2 were given\n")},
		{"bad argument", []string{"add", "1", "x"}, complained("xec: error parsing argument 2\n")},
		{"number too large", []string{"echo-byte", "256"}, complained("xec: error parsing argument 1\n")},
		{"variant argument", []string{"take-variant", "1"}, complained("xec: error parsing argument 1\n")},
		{"declaration that is nonsense", []string{"take-nonsense", "1"},
			complained("xec: unusable introspection data: argument 1: signature \"nonsense\": not one complete D-Bus type\n")},
		{"broken description", []string{"-o", "/broken", "shared"},
			complained("xec: unusable introspection data: XML syntax error on line 1: unexpected EOF\n")},
		{"description that is no text", []string{"-o", "/odd", "shared"},
			complained("xec: unusable introspection data: not a string\n")},
		{"description that is not there", []string{"-o", "/silent", "shared"},
			complained("xec: unusable introspection data: 0 values\n")},
		{"more than a message can carry", []string{"-o", "/huge", "m", "[]", "[]"},
			complained("xec: method m has more arguments than a D-Bus message can carry\n")},
		{"object that is no path", []string{"-o", "here", "shared"},
			complained("xec: \"here\" is not the path of an object\n")},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				check(t, test.want, xec(test.args...))
			})
		}
	})
}

func TestGet(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want outcome
	}{
		{"truth value", []string{"get", "enable-usb-cache"}, printed("true\n")},
		{"short option", []string{"-g", "enable-usb-cache"}, printed("true\n")},
		{"long option", []string{"--get", "enable-usb-cache"}, printed("true\n")},
		{"number", []string{"get", "download-cksize"}, printed("80\n")},
		{"double", []string{"get", "ratio"}, printed("1.5e-2\n")},
		{"array", []string{"get", "tags"}, printed("red\ngreen\n")},
		{"empty array", []string{"get", "empty"}, printed("\n")},
		{"dictionary", []string{"get", "limits"},
			printed("{\n  \"down\"                         = 2\n  \"up\"                           = 1\n}\n")},
		{"structure", []string{"get", "pair"}, printed("a\n1\n")},
		{"bytes", []string{"get", "blob"}, printed(`"\NULa\"1"` + "\n")},
		{"path", []string{"get", "path"}, printed("/vm/1\n")},
		{"given interface", []string{"-i", configIface, "get", "name"}, printed("first\n")},
		{"given interface needs no description", []string{"-o", "/undescribed", "-i", configIface, "get", "name"},
			printed("first\n")},
		{"dashes are kept", []string{"get", "enable_usb_cache"},
			complained("xec: property enable_usb_cache not found in any of the interfaces\n")},
		{"not known to the given interface", []string{"-i", "a.b", "get", "name"},
			answered(invalidArgs + ": no property a.b.name\n")},
		{"unknown object", []string{"-o", "/nowhere", "-i", configIface, "get", "name"},
			answered("org.freedesktop.DBus.Error.UnknownInterface: Object does not implement the interface '" +
				propsIface + "'\n")},
		{"two values", []string{"-o", "/odd", "-i", "a.b", "get", "name"},
			complained("xec: property name: the service sent 2 values\n")},
		{"declared but refused", []string{"get", "undefined"},
			answered(invalidArgs + ": no property " + configIface + ".undefined\n")},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				check(t, test.want, xec(test.args...))
			})
		}
	})
}

func TestGetAll(t *testing.T) {
	const config = `com.citrix.xenclient.xectest.config
{
  "blob"                              = "\NULa\"1"
  "download-cksize"                   = 80
  "empty"                             = 
  "enable-usb-cache"                  = true
  "limits"                            = {
  "down"                         = 2
  "up"                           = 1
}
  "name"                              = first
  "pair"                              = a
1
  "path"                              = /vm/1
  "ratio"                             = 1.5e-2
  "tags"                              = red
green
}
`
	tests := []struct {
		name string
		args []string
		want outcome
	}{
		{"all interfaces", []string{"getall"}, printed(config)},
		{"given interface", []string{"-i", configIface, "getall"}, printed(config)},
		{"given interface needs no description", []string{"-o", "/undescribed", "-i", configIface, "getall"},
			printed(config)},
		{"interface without properties", []string{"-i", typesIface, "getall"}, printed("")},
		{"the interface of properties itself", []string{"-i", propsIface, "getall"}, printed("")},
		{"unknown interface", []string{"-i", "a.b", "getall"}, answered(invalidArgs + ": no interface a.b\n")},
		{"declared but refused", []string{"-o", "/refusing", "getall"},
			answered(config + invalidArgs + ": no interface a.b\n")},
		{"forbidden", []string{"-o", "/denied", "getall"}, answered(accessDenied + ": not you\n")},
		{"no dictionary", []string{"-o", "/odd", "-i", "a.b", "getall"},
			complained("xec: properties of a.b: the service sent no dictionary\n")},
		{"unknown object", []string{"-o", "/nowhere", "-i", configIface, "getall"},
			answered("org.freedesktop.DBus.Error.UnknownInterface: Object does not implement the interface '" +
				propsIface + "'\n")},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				check(t, test.want, xec(test.args...))
			})
		}
	})
}

func TestSet(t *testing.T) {
	tests := []struct {
		name, property, value, want string
		options                     []string
	}{
		{name: "truth value", property: "enable-usb-cache", value: "false", want: "false\n"},
		{name: "number", property: "download-cksize", value: "40", want: "40\n"},
		{name: "text", property: "name", value: `new "name"`, want: "new \"name\"\n"},
		{name: "empty text", property: "name", value: "", want: "\n"},
		{name: "double", property: "ratio", value: "2.5", want: "2.5\n"},
		{name: "array", property: "tags", value: `["blue"]`, want: "blue\n"},
		{name: "dictionary", property: "limits", value: `{"left" : 3}`,
			want: "{\n  \"left\"                         = 3\n}\n"},
		{name: "structure", property: "pair", value: `["z", -1]`, want: "z\n-1\n"},
		{name: "bytes", property: "blob", value: "[7]", want: "\"\\a\"\n"},
		{name: "path", property: "path", value: "/x", want: "/x\n"},
		{name: "given interface", property: "name", value: "third", want: "third\n", options: []string{"-i", configIface}},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		for _, form := range []string{"set", "-x", "--set"} {
			for _, test := range tests {
				t.Run(form+" "+test.name, func(t *testing.T) {
					check(t, printed(""), xec(append(test.options, form, test.property, test.value)...))
					check(t, printed(test.want), xec("-i", configIface, "get", test.property))
				})
			}
		}
	})
}

func TestSetRefused(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want outcome
	}{
		{"wrong type", []string{"set", "enable-usb-cache", "maybe"}, complained("xec: error parsing argument 1\n")},
		{"number too large", []string{"set", "download-cksize", "4294967336"},
			complained("xec: error parsing argument 1\n")},
		{"variant", []string{"set", "any", "1"}, complained("xec: error parsing argument 1\n")},
		{"unknown property", []string{"set", "none", "1"},
			complained("xec: property none not found in any of the interfaces\n")},
		{"unknown property of interface", []string{"-i", configIface, "set", "none", "1"},
			complained("xec: property " + configIface + ".none not found\n")},
		{"unknown interface", []string{"-i", "a.b", "set", "name", "1"}, complained("xec: interface a.b not found\n")},
		{"service refuses", []string{"-i", shadowIface, "set", "name", "1"},
			answered(invalidArgs + ": no property " + shadowIface + ".name\n")},
		{"object without description", []string{"-o", "/undescribed", "-i", configIface, "set", "name", "x"},
			answered("org.freedesktop.DBus.Error.UnknownInterface: Object does not implement the interface '" +
				introspector + "'\n")},
	}
	onEachBus(t, func(t *testing.T, xec func(args ...string) outcome) {
		before := xec("-i", configIface, "getall")
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				check(t, test.want, xec(test.args...))
			})
		}
		check(t, before, xec("-i", configIface, "getall"))
	})
}
