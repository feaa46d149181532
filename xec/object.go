package xec

// find returns the interface with the given name, or nil.
func (o Object) find(name string) *Interface {
	return o.first(func(i *Interface) bool { return i.Name == name })
}

// declaring returns the first interface that declares the property, or nil.
func (o Object) declaring(property string) *Interface {
	return o.first(func(i *Interface) bool { return i.property(property) != nil })
}

// offering returns the first interface that has the method, or nil.
func (o Object) offering(method string) *Interface {
	return o.first(func(i *Interface) bool { return i.method(method) != nil })
}

// first returns the first interface that fits, or nil.
func (o Object) first(fits func(*Interface) bool) *Interface {
	for k := range o.Interfaces {
		if fits(&o.Interfaces[k]) {
			return &o.Interfaces[k]
		}
	}
	return nil
}

// property returns the property with the given name, or nil.
func (i *Interface) property(name string) *Property {
	for k := range i.Properties {
		if i.Properties[k].Name == name {
			return &i.Properties[k]
		}
	}
	return nil
}

// method returns the method with the given name, or nil.
func (i *Interface) method(name string) *Method {
	for k := range i.Methods {
		if i.Methods[k].Name == name {
			return &i.Methods[k]
		}
	}
	return nil
}

// narrowed returns the object with only the interface that c names. A name that
// the object does not have narrows nothing: the lists are made for looking
// around, and have always shown everything in that case.
func (o Object) narrowed(c Command) Object {
	if !c.HasInterface {
		return o
	}
	if i := o.find(c.Interface); i != nil {
		return Object{Interfaces: []Interface{*i}}
	}
	return o
}
