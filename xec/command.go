package xec

import (
	"strconv"
	"strings"
)

// Action says what a command line asks for.
type Action int

// The actions, one for each thing xec can do.
const (
	// Introspect prints what the object offers; it is what an empty command
	// line asks for.
	Introspect Action = iota
	// Help prints the usage text.
	Help
	// ListInterfaces prints the names of the object's interfaces.
	ListInterfaces
	// ListMethods prints the names of the object's methods.
	ListMethods
	// ListProperties prints the names of the object's properties.
	ListProperties
	// Get prints one property.
	Get
	// GetAll prints all properties.
	GetAll
	// Set changes one property.
	Set
	// Call calls a method.
	Call
)

// Defaults for what the command line leaves out.
const (
	defaultService = "com.citrix.xenclient.xenmgr"
	defaultObject  = "/"
	servicePrefix  = "com.citrix.xenclient."
)

// noDomain is the Command.TargetDomain of a command for the local bus.
const noDomain = -1

// Command is a parsed command line.
type Command struct {
	Action  Action
	Query   bool // do not log the invocation
	Session bool // talk to the session bus instead of the system bus

	Service string
	Object  string
	// Interface is meaningful only if HasInterface is set: an empty name that was
	// given is not the same as no name, because xec looks for the interface itself
	// only in the latter case.
	Interface    string
	HasInterface bool

	// TargetDomain is the Xen domain whose bus is meant, or -1 for the local bus.
	TargetDomain int

	Name   string   // the property or method
	Value  string   // the new value of a Set
	Values []string // the arguments of a Call
}

// ParseArgs reads a command line (without the program's name). It accepts
// everything: what is not an option or one of the words get, set and getall is
// taken for a method name.
func ParseArgs(args []string) Command {
	given, words := splitOptions(args)
	c := Command{
		Query:        given.has("query"),
		Session:      given.has("session"),
		Service:      fullServiceName(given.word("service", defaultService)),
		Object:       given.word("object", defaultObject),
		Interface:    given.word("interface", ""),
		HasInterface: given.has("interface"),
		TargetDomain: domain(given.word("target-domid", "")),
	}
	switch {
	case given.has("help"):
		c.Action = Help
	case given.has("list-interfaces"):
		c.Action = ListInterfaces
	case given.has("list-methods"):
		c.Action = ListMethods
	case given.has("list-properties"):
		c.Action = ListProperties
	case given.has("get"):
		c.Action, c.Name = Get, given["get"][0]
	case given.has("set"):
		c.Action, c.Name, c.Value = Set, given["set"][0], given["set"][1]
	default:
		c.takeWords(words)
	}
	return c
}

// takeWords fills in the command given by plain words. Words that are too many
// for get, set and getall are ignored; get and set with too few are method names,
// so that a service may well have methods of these names.
func (c *Command) takeWords(words []string) {
	switch {
	case len(words) == 0:
		c.Action = Introspect
	case words[0] == "getall":
		c.Action = GetAll
	case words[0] == "get" && len(words) >= 2:
		c.Action, c.Name = Get, words[1]
	case words[0] == "set" && len(words) >= 3:
		c.Action, c.Name, c.Value = Set, words[1], words[2]
	default:
		// People type list-disk-groups; D-Bus allows no dash in a member name.
		// Property names are strings, may have dashes, and stay as they are.
		c.Action, c.Name, c.Values = Call, strings.ReplaceAll(words[0], "-", "_"), words[1:]
	}
}

// fullServiceName completes a service name without a dot. No bus name is without
// a dot, so no name that was usable before changes its meaning.
func fullServiceName(name string) string {
	if name == "" || strings.Contains(name, ".") {
		return name
	}
	return servicePrefix + name
}

// domain reads the number of a Xen domain. What is not a number, or is below
// zero, has always meant the local bus.
func domain(word string) int {
	n, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil || n < 0 {
		return noDomain
	}
	return n
}
