package xec

import (
	"fmt"
	"strings"
)

// Render returns the description that introspection prints: the interfaces with
// an empty line after each.
func (o Object) Render() string {
	var out []string
	for _, i := range o.Interfaces {
		out = append(out, i.render())
	}
	return strings.Join(out, "\n\n") + "\n\n"
}

// render returns the description of an interface, without a newline at its end.
// An interface without members is its title and an empty line.
func (i Interface) render() string {
	var lines []string
	for _, p := range i.Properties {
		lines = append(lines, fmt.Sprintf("|     -  %-28s %s:%s", p.Name, p.Access, p.Type))
	}
	for _, m := range i.Methods {
		lines = append(lines, fmt.Sprintf("|     +  %-28s ( %s )", dashed(m.Name), m.arguments()))
	}
	return "/------- " + i.Name + "\n" + strings.Join(lines, "\n")
}

// arguments returns the arguments and results of a method, in that order.
func (m Method) arguments() string {
	var args []string
	for _, a := range m.In {
		args = append(args, a.Name+":"+a.Type)
	}
	for _, a := range m.Out {
		args = append(args, "OUT "+a.Name+":"+a.Type)
	}
	return strings.Join(args, ", ")
}

// dashed returns the name of a method as people type it.
func dashed(method string) string {
	return strings.ReplaceAll(method, "_", "-")
}
