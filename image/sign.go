package image

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

const envelopeType = "disksync manifest 1"

// ErrUntrusted is returned for an envelope that no trusted key has signed, or whose signature is wrong.
var ErrUntrusted = errors.New("not signed by a trusted key")

// PublicKey is an Ed25519 key that manifests may be trusted for. Its text form is standard base64.
type PublicKey [ed25519.PublicKeySize]byte

// Name returns the key's short name, 16 hexadecimal digits.
func (k PublicKey) Name() string {
	sum := sha256.Sum256(k[:])
	return hex.EncodeToString(sum[:8])
}

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, k[:]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *PublicKey) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(k) {
		return fmt.Errorf("public key %q: want base64 of %d bytes", clip(text), len(k))
	}
	copy(k[:], b)
	return nil
}

type envelope struct {
	Type       string      `json:"type"`
	Payload    []byte      `json:"payload"`
	Signatures []signature `json:"signatures"`
}

type signature struct {
	Key string `json:"key"`
	Sig []byte `json:"sig"`
}

// signedBytes puts the type before the payload, so that a signature of this kind of document is none of any other.
func signedBytes(payload []byte) []byte {
	return append([]byte(envelopeType+"\n"), payload...)
}

// SignManifest checks m and returns its signed envelope.
func SignManifest(m *Manifest, key ed25519.PrivateKey) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	pub := PublicKey(key.Public().(ed25519.PublicKey))
	return envelope{
		Type:       envelopeType,
		Payload:    payload,
		Signatures: []signature{{Key: pub.Name(), Sig: ed25519.Sign(key, signedBytes(payload))}},
	}.marshal()
}

func (e envelope) marshal() ([]byte, error) { return json.MarshalIndent(e, "", " ") }

// parseEnvelope reads an envelope, which has exactly one form: the signatures say nothing about what is around the payload.
func parseEnvelope(env []byte) (envelope, error) {
	var e envelope
	if err := decodeStrict(env, &e); err != nil {
		return e, err
	}
	if e.Type != envelopeType {
		return e, fmt.Errorf("of type %q", clip([]byte(e.Type)))
	}
	if again, err := e.marshal(); err != nil || !bytes.Equal(again, env) {
		return e, errors.New("not in the one form that it can have")
	}
	return e, nil
}

// Verified is a manifest that a trusted key has signed. The zero value holds nothing.
type Verified struct {
	m        *Manifest
	envelope []byte
}

// VerifyManifest checks the envelope's signatures against the trusted keys, then the manifest itself. It returns
// ErrUntrusted when no trusted key signed it or a trusted key's signature is wrong, ErrManifest when the signed content
// is not a manifest.
func VerifyManifest(env []byte, trusted ...PublicKey) (Verified, error) {
	if len(env) > MaxEnvelopeSize {
		return Verified{}, fmt.Errorf("%w: envelope of %d bytes", ErrManifest, len(env))
	}
	e, err := parseEnvelope(env)
	if err != nil {
		return Verified{}, fmt.Errorf("%w: envelope: %w", ErrManifest, err)
	}
	good := 0
	for _, s := range e.Signatures {
		for _, k := range trusted {
			if s.Key != k.Name() {
				continue
			}
			if !ed25519.Verify(k[:], signedBytes(e.Payload), s.Sig) {
				return Verified{}, fmt.Errorf("%w: the signature of key %s is wrong", ErrUntrusted, s.Key)
			}
			good++
		}
	}
	if good == 0 {
		return Verified{}, ErrUntrusted
	}
	m := new(Manifest)
	if err := decodeStrict(e.Payload, m); err != nil {
		return Verified{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if err := m.Check(); err != nil {
		return Verified{}, err
	}
	return Verified{m: m, envelope: env}, nil
}

// IsZero reports whether v holds no manifest.
func (v Verified) IsZero() bool { return v.m == nil }

// Manifest returns the manifest. The caller must not change it.
func (v Verified) Manifest() *Manifest { return v.m }

// Envelope returns the signed bytes, for storing and passing on. The caller must not change them.
func (v Verified) Envelope() []byte { return v.envelope }

// Until returns the part of v that leads to one layer of a disk: that disk alone, with the layer's To as its state, and size 0
// when that is not the manifest's own state. What it says is as verified as v. ok is false when v has no such layer.
func (v Verified) Until(id LayerID) (part Verified, ok bool) {
	if v.m == nil {
		return Verified{}, false
	}
	for _, d := range v.m.Disks {
		for i, l := range d.Layers {
			if l.ID != id {
				continue
			}
			m := *v.m
			if i < len(d.Layers)-1 {
				d.Size = 0 // the manifest does not say
			}
			d.Layers, d.State = d.Layers[:i+1], l.To
			m.Disks = []Disk{d}
			return Verified{m: &m, envelope: v.envelope}, true
		}
	}
	return Verified{}, false
}
