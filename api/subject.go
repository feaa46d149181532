package api

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Subject is a user or a group that something is assigned to. Its text form is "user:NAME" or "group:NAME".
type Subject struct {
	Kind SubjectKind
	Name string
}

// SubjectKind tells users from groups.
type SubjectKind string

// The kinds.
const (
	ToUser  SubjectKind = "user"
	ToGroup SubjectKind = "group"
)

// String returns the text form.
func (s Subject) String() string { return string(s.Kind) + ":" + s.Name }

// MarshalText implements encoding.TextMarshaler.
func (s Subject) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Subject) UnmarshalText(text []byte) error {
	kind, name, ok := strings.Cut(string(text), ":")
	if !ok || kind != string(ToUser) && kind != string(ToGroup) {
		return fmt.Errorf("%q: want user:NAME or group:NAME", text[:min(len(text), 80)])
	}
	if err := CheckAccount(name); err != nil {
		return err
	}
	s.Kind, s.Name = SubjectKind(kind), name
	return nil
}

// accountPattern takes what directories use: alice, alice@corp.example, CORP_alice.
var accountPattern = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]*$`)

// CheckDeviceName returns an error unless name can name a device: what people can read on one line, at most MaxName bytes.
func CheckDeviceName(name string) error {
	if len(name) > MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("device name %q: want at most %d bytes that can be read", name[:min(len(name), 80)], MaxName)
	}
	return nil
}

// CheckAccount returns an error unless name can be the name of a user or group: letters and digits of any script and
// . _ @ + - with a letter or digit first, at most MaxName bytes.
func CheckAccount(name string) error {
	if len(name) > MaxName || !accountPattern.MatchString(name) {
		return fmt.Errorf("name %q: want letters, digits and . _ @ + - with a letter or digit first, at most %d bytes",
			name[:min(len(name), 80)], MaxName)
	}
	return nil
}
