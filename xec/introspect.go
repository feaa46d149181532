package xec

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits for introspection data, which comes from a service that may be broken or
// hostile. The largest real ones have some hundred KiB and six levels.
const (
	maxIntrospection = 4 << 20
	maxXMLDepth      = 64
)

// ErrIntrospection is the error for introspection data that cannot be used.
var ErrIntrospection = errors.New("unusable introspection data")

// Object is what introspection tells about an object.
type Object struct {
	Interfaces []Interface
}

// Interface is an interface of an object, its members in the order declared.
type Interface struct {
	Name       string
	Properties []Property
	Methods    []Method
}

// Property is a property of an interface. Access is read, write or readwrite.
type Property struct {
	Name, Type, Access string
}

// Method is a method of an interface.
type Method struct {
	Name string
	In   []Arg
	Out  []Arg
}

// Arg is an argument or a result of a method. Its name may be empty.
type Arg struct {
	Name, Type string
}

// ParseObject reads introspection data. Signals, annotations, documentation,
// extensions and the objects below this one are passed over.
func ParseObject(data string) (Object, error) {
	if len(data) > maxIntrospection {
		return Object{}, fmt.Errorf("%w: %d bytes", ErrIntrospection, len(data))
	}
	p := objectParser{decoder: xml.NewDecoder(strings.NewReader(data))}
	// Whatever the header claims, text on D-Bus is UTF-8.
	p.decoder.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	for {
		token, err := p.decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Object{}, fmt.Errorf("%w: %w", ErrIntrospection, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if err := p.start(token); err != nil {
				return Object{}, err
			}
		case xml.EndElement:
			p.path = p.path[:len(p.path)-1]
		}
	}
	if !p.sawNode {
		return Object{}, fmt.Errorf("%w: no node element", ErrIntrospection)
	}
	return p.object, nil
}

// objectParser builds an Object while it walks through the XML.
type objectParser struct {
	decoder *xml.Decoder
	object  Object
	path    []string // names of the open elements, outermost first
	space   string   // the namespace of the outermost element
	sawNode bool
}

// start notes an element. What it is depends on where it is: an interface counts
// only directly below the outermost node. Elements of other namespaces are
// extensions and mean nothing here, whatever their name.
func (p *objectParser) start(e xml.StartElement) error {
	if len(p.path) == maxXMLDepth {
		return fmt.Errorf("%w: more than %d levels", ErrIntrospection, maxXMLDepth)
	}
	if len(p.path) == 0 {
		p.space = e.Name.Space
	}
	name := e.Name.Local
	if e.Name.Space != p.space {
		name = "extension"
	}
	p.path = append(p.path, name)
	switch strings.Join(p.path[:min(len(p.path), 5)], "/") {
	case "node":
		p.sawNode = true
	case "node/interface":
		p.object.Interfaces = append(p.object.Interfaces, Interface{Name: attr(e, "name")})
	case "node/interface/property":
		i := last(p.object.Interfaces)
		i.Properties = append(i.Properties, Property{attr(e, "name"), attr(e, "type"), attr(e, "access")})
	case "node/interface/method":
		i := last(p.object.Interfaces)
		i.Methods = append(i.Methods, Method{Name: attr(e, "name")})
	case "node/interface/method/arg":
		m := last(last(p.object.Interfaces).Methods)
		arg := Arg{attr(e, "name"), attr(e, "type")}
		if attr(e, "direction") == "out" {
			m.Out = append(m.Out, arg)
		} else {
			m.In = append(m.In, arg) // the default of the specification
		}
	}
	return nil
}

// last returns the last of items, of which there is at least one: its element is
// still open.
func last[T any](items []T) *T {
	return &items[len(items)-1]
}

// attr returns the value of an attribute, "" if it is absent.
func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
