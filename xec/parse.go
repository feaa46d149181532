package xec

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
)

// ErrValue is the error for text that is no value of the wanted type.
var ErrValue = errors.New("not a value of this type")

// ParseValue converts one word of the command line to a value of type t, ready
// to be sent.
//
// Text and object paths are taken as they are, to the end of the word. Inside
// arrays [a, b], dictionaries {k : v} and structures [a, b] they are quoted by "
// or ', and \ protects a quote or itself. What follows a complete value is
// ignored: 12abc is the number 12. Variants and signatures cannot be written,
// because there is nothing to tell what type their content has.
func ParseValue(text string, t Type) (any, error) {
	if !t.sendable() {
		return nil, fmt.Errorf("type %q cannot be sent: %w", t, ErrValue)
	}
	s := &scanner{text: text}
	v := reflect.New(t.goType()).Elem()
	if err := s.value(v, t, true); err != nil {
		return nil, fmt.Errorf("%q as %q: %w", text, t, err)
	}
	return v.Interface(), nil
}

// scanner reads values off the front of text.
type scanner struct {
	text string // what is still to be read
}

// value reads a value of type t into v. Its recursion follows the type, whose
// nesting is bounded, and not the text. Only at the top does text go unquoted.
func (s *scanner) value(v reflect.Value, t Type, top bool) error {
	switch t.code {
	case 'b':
		return s.truth(v)
	case 'n', 'i', 'x':
		return s.signed(v)
	case 'y', 'q', 'u', 't':
		return s.unsigned(v)
	case 'd':
		return s.double(v)
	case 's', 'o':
		return s.str(v, t, top)
	case 'a':
		return s.array(v, t)
	case '{':
		return s.dict(v, t)
	case '(':
		return s.structure(v, t)
	}
	// Variants, signatures and file descriptors. An empty array of them passes,
	// for it contains none.
	return ErrValue
}

// truth reads true, false, 1 or 0.
func (s *scanner) truth(v reflect.Value) error {
	switch {
	case s.accept("true"), s.accept("1"):
		v.SetBool(true)
	case s.accept("false"), s.accept("0"):
		v.SetBool(false)
	default:
		return ErrValue
	}
	return nil
}

// signed reads a whole number. A number the type cannot hold is an error: the
// original let it wrap round, which turned a slip of the finger into another,
// valid looking setting.
func (s *scanner) signed(v reflect.Value) error {
	n, err := strconv.ParseInt(s.number(false), 10, v.Type().Bits())
	if err != nil {
		return ErrValue
	}
	v.SetInt(n)
	return nil
}

// unsigned reads a whole number that is not negative.
func (s *scanner) unsigned(v reflect.Value) error {
	n, err := strconv.ParseUint(s.number(false), 10, v.Type().Bits())
	if err != nil {
		return ErrValue
	}
	v.SetUint(n)
	return nil
}

// double reads a number with or without a fraction. There is no exponent:
// 1e5 is the number 1 followed by something to ignore.
func (s *scanner) double(v reflect.Value) error {
	f, err := strconv.ParseFloat(s.number(true), 64)
	if err != nil {
		return ErrValue
	}
	v.SetFloat(f)
	return nil
}

// number takes -digits or, if fraction is allowed, -digits.digits off the text.
// It returns what it took, which is no number if the digits are missing.
func (s *scanner) number(fraction bool) string {
	end := 0
	if strings.HasPrefix(s.text, "-") {
		end = 1
	}
	end = skipDigits(s.text, end)
	if fraction && end < len(s.text) && s.text[end] == '.' {
		end = skipDigits(s.text, end+1)
	}
	taken := s.text[:end]
	s.text = s.text[end:]
	if strings.HasSuffix(taken, ".") || strings.HasPrefix(taken, ".") || strings.HasPrefix(taken, "-.") {
		return "" // Go would read "1." and ".5"; xec never did
	}
	return taken
}

// skipDigits returns the place of the first byte at or after from that is no digit.
func skipDigits(text string, from int) int {
	for from < len(text) && '0' <= text[from] && text[from] <= '9' {
		from++
	}
	return from
}

// str reads text or an object path. What D-Bus could not carry is refused here,
// because the bus answers a malformed message by hanging up.
func (s *scanner) str(v reflect.Value, t Type, top bool) error {
	text := s.text
	if top {
		s.text = ""
	} else {
		var err error
		if text, err = s.quoted(); err != nil {
			return err
		}
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return ErrValue
	}
	if t.code == 'o' && !dbus.ObjectPath(text).IsValid() {
		return ErrValue
	}
	v.SetString(text)
	return nil
}

// quoted reads text in quotes of either kind. A backslash that protects neither
// itself nor this kind of quote stays in the text.
func (s *scanner) quoted() (string, error) {
	var quote string
	switch {
	case s.accept(`"`):
		quote = `"`
	case s.accept(`'`):
		quote = `'`
	default:
		return "", ErrValue
	}
	var out strings.Builder
	for s.text != "" {
		switch {
		case s.accept(quote):
			return out.String(), nil
		case s.accept(`\\`):
			out.WriteByte('\\')
		case s.accept(`\` + quote):
			out.WriteString(quote)
		default:
			out.WriteByte(s.text[0])
			s.text = s.text[1:]
		}
	}
	return "", ErrValue
}

// array reads [a, b, ...].
func (s *scanner) array(v reflect.Value, t Type) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // an empty array, not an absent one
	return s.list("[", "]", func() error {
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := s.value(elem, t.parts[0], false); err != nil {
			return err
		}
		v.Set(reflect.Append(v, elem))
		return nil
	})
}

// dict reads {k : v, ...}. Of entries with the same key the last counts, as it
// would for a receiver that builds a map.
func (s *scanner) dict(v reflect.Value, t Type) error {
	v.Set(reflect.MakeMap(v.Type()))
	return s.list("{", "}", func() error {
		key := reflect.New(v.Type().Key()).Elem()
		if err := s.value(key, t.parts[0], false); err != nil {
			return err
		}
		s.spaces()
		if !s.accept(":") {
			return ErrValue
		}
		s.spaces()
		value := reflect.New(v.Type().Elem()).Elem()
		if err := s.value(value, t.parts[1], false); err != nil {
			return err
		}
		v.SetMapIndex(key, value)
		return nil
	})
}

// structure reads [a, b, ...] with exactly the members the type has.
func (s *scanner) structure(v reflect.Value, t Type) error {
	member := 0
	err := s.list("[", "]", func() error {
		if member == len(t.parts) {
			return ErrValue
		}
		member++
		return s.value(v.Field(member-1), t.parts[member-1], false)
	})
	if err == nil && member != len(t.parts) {
		return ErrValue
	}
	return err
}

// list reads items with commas between them, enclosed by left and right.
func (s *scanner) list(left, right string, item func() error) error {
	s.spaces()
	if !s.accept(left) {
		return ErrValue
	}
	s.spaces()
	if s.accept(right) {
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		s.spaces()
		if s.accept(right) {
			return nil
		}
		if !s.accept(",") {
			return ErrValue
		}
		s.spaces()
	}
}

// accept takes token off the text if the text starts with it.
func (s *scanner) accept(token string) bool {
	rest, ok := strings.CutPrefix(s.text, token)
	if ok {
		s.text = rest
	}
	return ok
}

// spaces skips white space.
func (s *scanner) spaces() {
	s.text = strings.TrimLeftFunc(s.text, unicode.IsSpace)
}
