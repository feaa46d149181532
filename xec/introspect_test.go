package xec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/xec"
)

func TestParseObject(t *testing.T) {
	tests := []struct {
		name, xml string
		want      xec.Object
	}{
		{name: "nothing", xml: `<node/>`},
		{
			name: "as daemons write it",
			xml: `<?xml version="1.0" encoding="ISO-8859-1"?>
				<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
				 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
				<node name="/" xmlns:tp="http://telepathy.freedesktop.org/wiki/DbusSpec#extensions-v0">
				 <!-- a remark -->
				 <interface name="a.b">
				  <tp:docstring><tp:p>text &amp; more</tp:p></tp:docstring>
				  <annotation name="x" value="y"/>
				  <property name="p-q" type="a{sv}" access="readwrite">
				   <annotation name="x" value="y"/>
				  </property>
				  <method name="m_n">
				   <arg name="first" type="s" direction="in"/>
				   <arg name="result" type="i" direction="out"/>
				   <arg type="b"/>
				   <tp:arg name="extension" type="y"/>
				  </method>
				  <signal name="s"><arg name="no" type="s" direction="out"/></signal>
				  <method name="none"/>
				 </interface>
				 <interface name="a.c"/>
				 <node name="child"><interface name="not.ours"><method name="m"/></interface></node>
				</node>`,
			want: xec.Object{Interfaces: []xec.Interface{
				{
					Name:       "a.b",
					Properties: []xec.Property{{Name: "p-q", Type: "a{sv}", Access: "readwrite"}},
					Methods: []xec.Method{
						{
							Name: "m_n",
							In:   []xec.Arg{{Name: "first", Type: "s"}, {Type: "b"}},
							Out:  []xec.Arg{{Name: "result", Type: "i"}},
						},
						{Name: "none"},
					},
				},
				{Name: "a.c"},
			}},
		},
		{
			name: "default namespace",
			xml:  `<node xmlns="urn:x" xmlns:y="urn:y"><interface name="a.b"/><y:interface name="c.d"/></node>`,
			want: xec.Object{Interfaces: []xec.Interface{{Name: "a.b"}}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := xec.ParseObject(test.xml)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestParseObjectRefuses(t *testing.T) {
	tests := []struct{ name, xml string }{
		{"nothing", ""},
		{"text", "hello"},
		{"another document", "<html/>"},
		{"open element", "<node><interface name='a.b'>"},
		{"crossed elements", "<node><interface></node></interface>"},
		{"closing element alone", "</node>"},
		{"unknown entity", "<node>&bomb;</node>"},
		{"control character", "<node name='\x1b'/>"},
		{"too deep", strings.Repeat("<node>", 65) + strings.Repeat("</node>", 65)},
		{"too large", "<node>" + strings.Repeat(" ", 4<<20) + "</node>"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, err := xec.ParseObject(test.xml); !errors.Is(err, xec.ErrIntrospection) {
				t.Errorf("got %v, %v; want %v", got, err, xec.ErrIntrospection)
			}
		})
	}
}

func TestRender(t *testing.T) {
	object := xec.Object{Interfaces: []xec.Interface{
		{
			Name: "a.b",
			Properties: []xec.Property{
				{Name: "short", Type: "s", Access: "read"},
				{Name: "a-name-of-more-than-28-characters", Type: "(ii)", Access: "write"},
			},
			Methods: []xec.Method{
				{Name: "no_arguments"},
				{Name: "all", In: []xec.Arg{{"x", "s"}, {"", "i"}}, Out: []xec.Arg{{"y", "a{sv}"}, {"", "b"}}},
			},
		},
		{Name: "no.members"},
		{Name: "c.d", Methods: []xec.Method{{Name: "m"}}},
	}}
	const want = `/------- a.b
|     -  short                        read:s
|     -  a-name-of-more-than-28-characters write:(ii)
|     +  no-arguments                 (  )
|     +  all                          ( x:s, :i, OUT y:a{sv}, OUT :b )

/------- no.members


/------- c.d
|     +  m                            (  )

`
	if diff := cmp.Diff(want, object.Render()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff("\n\n", xec.Object{}.Render()); diff != "" {
		t.Errorf("no interfaces: -want +got\n%s", diff)
	}
}

func FuzzParseObject(f *testing.F) {
	f.Add(`<node name="/"><interface name="a.b"><method name="m"><arg type="s" direction="out"/></method></interface></node>`)
	f.Add(`<node><interface><property/></interface><arg/></node>`)
	f.Add(`<a:node xmlns:a="b"><a:interface/></a:node><x/>`)
	f.Add(`<node/></node>`)
	f.Fuzz(func(t *testing.T, data string) {
		object, err := xec.ParseObject(data)
		if err != nil {
			if !errors.Is(err, xec.ErrIntrospection) {
				t.Fatalf("unexpected error: %v", err)
			}
			return
		}
		_ = object.Render()
	})
}
