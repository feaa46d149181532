package xec_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/xec"
)

// local returns the command for an empty command line, changed by edit.
func local(edit func(*xec.Command)) xec.Command {
	c := xec.Command{
		Service:      "com.citrix.xenclient.xenmgr",
		Object:       "/",
		TargetDomain: -1,
	}
	if edit != nil {
		edit(&c)
	}
	return c
}

func TestParseArgs(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want func(*xec.Command)
	}{
		{name: "nothing introspects"},

		{name: "short help", args: []string{"-h"}, want: func(c *xec.Command) { c.Action = xec.Help }},
		{name: "long help", args: []string{"--help"}, want: func(c *xec.Command) { c.Action = xec.Help }},
		{name: "short query", args: []string{"-q"}, want: func(c *xec.Command) { c.Query = true }},
		{name: "long query", args: []string{"--query"}, want: func(c *xec.Command) { c.Query = true }},
		{name: "session", args: []string{"--session"}, want: func(c *xec.Command) { c.Session = true }},
		{name: "list interfaces", args: []string{"--list-interfaces"},
			want: func(c *xec.Command) { c.Action = xec.ListInterfaces }},
		{name: "list methods", args: []string{"--list-methods"},
			want: func(c *xec.Command) { c.Action = xec.ListMethods }},
		{name: "list properties", args: []string{"--list-properties"},
			want: func(c *xec.Command) { c.Action = xec.ListProperties }},
		{name: "short service", args: []string{"-s", "org.a.b"}, want: func(c *xec.Command) { c.Service = "org.a.b" }},
		{name: "long service", args: []string{"--service", "org.a.b"}, want: func(c *xec.Command) { c.Service = "org.a.b" }},
		{name: "short object", args: []string{"-o", "/vm/1"}, want: func(c *xec.Command) { c.Object = "/vm/1" }},
		{name: "long object", args: []string{"--object", "/vm/1"}, want: func(c *xec.Command) { c.Object = "/vm/1" }},
		{name: "short interface", args: []string{"-i", "a.b"},
			want: func(c *xec.Command) { c.Interface, c.HasInterface = "a.b", true }},
		{name: "long interface", args: []string{"--interface", "a.b"},
			want: func(c *xec.Command) { c.Interface, c.HasInterface = "a.b", true }},
		{name: "empty interface is an interface", args: []string{"-i", ""},
			want: func(c *xec.Command) { c.HasInterface = true }},
		{name: "short get", args: []string{"-g", "p-q"}, want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p-q" }},
		{name: "long get", args: []string{"--get", "p"}, want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p" }},
		{name: "short set", args: []string{"-x", "p-q", "v"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value = xec.Set, "p-q", "v" }},
		{name: "long set", args: []string{"--set", "p", "v"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value = xec.Set, "p", "v" }},

		{name: "short service name", args: []string{"-s", "disksyncmgr"},
			want: func(c *xec.Command) { c.Service = "com.citrix.xenclient.disksyncmgr" }},
		{name: "unique name", args: []string{"-s", ":1.7"}, want: func(c *xec.Command) { c.Service = ":1.7" }},
		{name: "empty service name", args: []string{"-s", ""}, want: func(c *xec.Command) { c.Service = "" }},

		{name: "word get", args: []string{"get", "p"}, want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p" }},
		{name: "word get ignores more", args: []string{"get", "p", "x", "y"},
			want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p" }},
		{name: "word set", args: []string{"set", "p", "-v"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value = xec.Set, "p", "-v" }},
		{name: "word set ignores more", args: []string{"set", "p", "v", "x"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value = xec.Set, "p", "v" }},
		{name: "word getall", args: []string{"getall"}, want: func(c *xec.Command) { c.Action = xec.GetAll }},
		{name: "word getall ignores more", args: []string{"getall", "x"}, want: func(c *xec.Command) { c.Action = xec.GetAll }},
		{name: "get alone is a method", args: []string{"get"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "get", []string{} }},
		{name: "set with one word is a method", args: []string{"set", "p"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "set", []string{"p"} }},
		{name: "method", args: []string{"list-disk-groups", "a-b", "-s"},
			want: func(c *xec.Command) {
				c.Action, c.Name, c.Values = xec.Call, "list_disk_groups", []string{"a-b", "-s"}
			}},

		{name: "first of repeated options", args: []string{"-s", "a.b", "--service", "c.d", "-g", "p", "-g", "q"},
			want: func(c *xec.Command) { c.Service, c.Action, c.Name = "a.b", xec.Get, "p" }},
		{name: "option as word of an option", args: []string{"-x", "-i", "-g", "-q"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value, c.Query = xec.Set, "-i", "-g", true }},
		{name: "options end at the first other word", args: []string{"-q", "m", "--session"},
			want: func(c *xec.Command) { c.Query, c.Action, c.Name, c.Values = true, xec.Call, "m", []string{"--session"} }},
		{name: "get without word", args: []string{"-q", "-g"}, want: func(c *xec.Command) { c.Query = true }},
		{name: "service without word", args: []string{"-s"}},
		{name: "set with one word drops it", args: []string{"-x", "p"}},
		{name: "a dropped option keeps an earlier one", args: []string{"-g", "p", "-s"},
			want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p" }},
		{name: "no value after an equals sign", args: []string{"--service=a.b"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "__service=a.b", []string{} }},
		{name: "no bundles", args: []string{"-qh"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "_qh", []string{} }},
		{name: "no double dash", args: []string{"--", "m"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "__", []string{"m"} }},
		{name: "no abbreviations", args: []string{"--serv", "a.b"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Values = xec.Call, "__serv", []string{"a.b"} }},
		{name: "empty word is a method", args: []string{""},
			want: func(c *xec.Command) { c.Action, c.Values = xec.Call, []string{} }},

		{name: "help before all", args: []string{"-g", "p", "--list-methods", "-x", "a", "b", "--help"},
			want: func(c *xec.Command) { c.Action = xec.Help }},
		{name: "interfaces before methods", args: []string{"--list-methods", "--list-interfaces"},
			want: func(c *xec.Command) { c.Action = xec.ListInterfaces }},
		{name: "methods before properties", args: []string{"--list-properties", "--list-methods"},
			want: func(c *xec.Command) { c.Action = xec.ListMethods }},
		{name: "properties before get", args: []string{"-g", "p", "--list-properties"},
			want: func(c *xec.Command) { c.Action = xec.ListProperties }},
		{name: "get before set", args: []string{"-x", "a", "b", "-g", "p"},
			want: func(c *xec.Command) { c.Action, c.Name = xec.Get, "p" }},
		{name: "set before words", args: []string{"-x", "a", "b", "getall"},
			want: func(c *xec.Command) { c.Action, c.Name, c.Value = xec.Set, "a", "b" }},

		{name: "domain", args: []string{"-t", "5"}, want: func(c *xec.Command) { c.TargetDomain = 5 }},
		{name: "own domain has a number too", args: []string{"--target-domid", "0"},
			want: func(c *xec.Command) { c.TargetDomain = 0 }},
		{name: "domain below zero", args: []string{"-t", "-1"}},
		{name: "domain that is no number", args: []string{"-t", "five"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(local(test.want), xec.ParseArgs(test.args)); diff != "" {
				t.Errorf("ParseArgs(%q): -want +got\n%s", test.args, diff)
			}
		})
	}
}
