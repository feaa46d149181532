package agefile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// MaxRecipients bounds the recipients of a file, so that its header fits in HeadSize.
const MaxRecipients = 32

// ErrKey is returned for a text that is no recipient, or no identity, of the kind that is used here.
var ErrKey = errors.New("not an age key of the kind X25519")

// CheckRecipient returns ErrKey unless text is the public half of a key, "age1…". A letter that was mistyped is found.
func CheckRecipient(text string) error {
	_, err := parseRecipient(text)
	return err
}

func parseRecipient(text string) (*age.X25519Recipient, error) {
	r, err := age.ParseX25519Recipient(text)
	if err == nil && r.String() != text {
		err = errors.New("not written in small letters")
	}
	if err != nil {
		return nil, fmt.Errorf("recipient %.80q: %w", text, ErrKey)
	}
	return r, nil
}

// Identity is the secret half of a key. Formatting and logging one gives its recipient.
type Identity struct{ id *age.X25519Identity }

// NewIdentity makes a key.
func NewIdentity() (Identity, error) {
	id, err := age.GenerateX25519Identity()
	return Identity{id}, err
}

// Recipient returns the public half of the key.
func (k Identity) Recipient() string {
	if k.id == nil {
		return ""
	}
	return k.id.Recipient().String()
}

// Secret returns the key as age-keygen writes it: "AGE-SECRET-KEY-1…".
func (k Identity) Secret() string { return k.id.String() }

// String keeps the secret out of texts.
func (k Identity) String() string { return "the key of " + k.Recipient() }

// GoString is String.
func (k Identity) GoString() string { return k.String() }

// maxIdentities bounds the keys of a file.
const maxIdentities = 1000

// ParseIdentities reads the keys in a file as age-keygen writes it: one a line; empty lines, and those that begin with #, are passed over.
// There is at least one. An error does not say what the file has.
func ParseIdentities(text []byte) ([]Identity, error) {
	var out []Identity
	for line := range strings.Lines(string(bytes.TrimPrefix(text, []byte("\ufeff")))) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := age.ParseX25519Identity(line)
		if err != nil || len(out) == maxIdentities {
			return nil, fmt.Errorf("identity number %d: %w", len(out)+1, ErrKey)
		}
		out = append(out, Identity{id})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no identity: %w", ErrKey)
	}
	return out, nil
}
