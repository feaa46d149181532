package xec

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Limits the D-Bus specification sets for signatures. They also bound the
// recursion of everything here that follows a type.
const (
	maxSignature = 255
	maxNesting   = 32 // of arrays, and separately of structures
)

// errNoSignature is the error for text that is not exactly one D-Bus type.
var errNoSignature = errors.New("not one complete D-Bus type")

// Type is one complete D-Bus type. The zero value is no type; values come from
// ParseType.
type Type struct {
	// code is the letter of the signature; 'a' for arrays, '(' for structures and
	// '{' for dictionaries, that is arrays of key and value.
	code byte
	// parts are the element of an array, key and value of a dictionary, or the
	// members of a structure.
	parts []Type
}

// basicTypes are the letters of the types that have no parts and may therefore be
// the key of a dictionary. A variant has no parts here, but may be no key.
const basicTypes = "ybnqiuxtdsogh"

// ParseType reads the signature of one complete type.
func ParseType(signature string) (Type, error) {
	if len(signature) > maxSignature {
		return Type{}, fmt.Errorf("signature of %d characters: %w", len(signature), errNoSignature)
	}
	t, rest, err := parseType(signature, 0, 0)
	if err != nil {
		return Type{}, fmt.Errorf("signature %q: %w", signature, err)
	}
	if rest != "" {
		return Type{}, fmt.Errorf("signature %q: %w", signature, errNoSignature)
	}
	return t, nil
}

// parseType reads the first type of a signature and returns what follows it.
func parseType(sig string, arrays, structs int) (Type, string, error) {
	if sig == "" || arrays > maxNesting || structs > maxNesting {
		return Type{}, "", errNoSignature
	}
	code, rest := sig[0], sig[1:]
	switch {
	case code == 'v' || strings.IndexByte(basicTypes, code) >= 0:
		return Type{code: code}, rest, nil
	case code == 'a' && strings.HasPrefix(rest, "{"):
		return parseDict(rest[1:], arrays+1, structs)
	case code == 'a':
		elem, rest, err := parseType(rest, arrays+1, structs)
		return Type{code: 'a', parts: []Type{elem}}, rest, err
	case code == '(':
		return parseStruct(rest, arrays, structs+1)
	}
	return Type{}, "", errNoSignature
}

// parseDict reads key, value and closing brace.
func parseDict(sig string, arrays, structs int) (Type, string, error) {
	if sig == "" || strings.IndexByte(basicTypes, sig[0]) < 0 {
		return Type{}, "", errNoSignature
	}
	key := Type{code: sig[0]}
	value, rest, err := parseType(sig[1:], arrays, structs)
	if err != nil {
		return Type{}, "", err
	}
	rest, closed := strings.CutPrefix(rest, "}")
	if !closed {
		return Type{}, "", errNoSignature
	}
	return Type{code: '{', parts: []Type{key, value}}, rest, nil
}

// parseStruct reads the members and the closing parenthesis.
func parseStruct(sig string, arrays, structs int) (Type, string, error) {
	var members []Type
	for {
		if rest, closed := strings.CutPrefix(sig, ")"); closed && len(members) > 0 {
			return Type{code: '(', parts: members}, rest, nil
		}
		member, rest, err := parseType(sig, arrays, structs)
		if err != nil {
			return Type{}, "", err
		}
		members, sig = append(members, member), rest
	}
}

// String returns the signature.
func (t Type) String() string {
	var inner strings.Builder
	for _, p := range t.parts {
		inner.WriteString(p.String())
	}
	switch t.code {
	case 0:
		return ""
	case 'a':
		return "a" + inner.String()
	case '{':
		return "a{" + inner.String() + "}"
	case '(':
		return "(" + inner.String() + ")"
	}
	return string(rune(t.code))
}

// sendable reports whether the D-Bus library can send values of t. It has no way
// to send a dictionary with truth values or signatures as keys.
func (t Type) sendable() bool {
	if t.code == '{' && strings.IndexByte("bg", t.parts[0].code) >= 0 {
		return false
	}
	for _, p := range t.parts {
		if !p.sendable() {
			return false
		}
	}
	return t.code != 0
}

// goType returns the Go type whose values the D-Bus library sends as t.
func (t Type) goType() reflect.Type {
	switch t.code {
	case 'a':
		return reflect.SliceOf(t.parts[0].goType())
	case '{':
		return reflect.MapOf(t.parts[0].goType(), t.parts[1].goType())
	case '(':
		fields := make([]reflect.StructField, len(t.parts))
		for i, p := range t.parts {
			fields[i] = reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: p.goType()}
		}
		return reflect.StructOf(fields)
	}
	return basicGoType(t.code)
}

// basicGoType returns the Go type for a type without parts.
func basicGoType(code byte) reflect.Type {
	switch code {
	case 'y':
		return reflect.TypeFor[byte]()
	case 'b':
		return reflect.TypeFor[bool]()
	case 'n':
		return reflect.TypeFor[int16]()
	case 'q':
		return reflect.TypeFor[uint16]()
	case 'i':
		return reflect.TypeFor[int32]()
	case 'u':
		return reflect.TypeFor[uint32]()
	case 'x':
		return reflect.TypeFor[int64]()
	case 't':
		return reflect.TypeFor[uint64]()
	case 'd':
		return reflect.TypeFor[float64]()
	case 'o':
		return reflect.TypeFor[dbus.ObjectPath]()
	case 'g':
		return reflect.TypeFor[dbus.Signature]()
	case 'h':
		return reflect.TypeFor[dbus.UnixFDIndex]()
	case 'v':
		return reflect.TypeFor[dbus.Variant]()
	}
	return reflect.TypeFor[string]()
}
