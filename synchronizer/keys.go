package synchronizer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"disksync/internal/durable"
)

const (
	signingKeyFile = "signing.key"
	tlsKeyFile     = "tls.key"
	tlsCertFile    = "tls.crt"
	maxKeyFile     = 64 << 10
	// certLife is long because endpoints know the key, not the date: a certificate that ran out would lock out a fleet for
	// nothing.
	certLife = 30 * 365 * 24 * time.Hour
)

// loadSigningKey reads the key that signs manifests, and makes it at the first start.
func loadSigningKey(fsys durable.FS, first bool) (ed25519.PrivateKey, error) {
	key, err := loadKey(fsys, signingKeyFile, first, func() (any, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key", signingKeyFile)
	}
	return k, nil
}

// loadKey reads a PKCS #8 key in PEM. At the first start it makes and stores one; later a missing key is a lost one, and
// another in its place would make this a Synchronizer that no endpoint knows.
func loadKey(fsys durable.FS, name string, first bool, generate func() (any, error)) (any, error) {
	b, err := durable.ReadFile(fsys, name, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if !first {
			return nil, fmt.Errorf("%s is missing though there is a catalog; nothing was changed: bring it back from a backup", name)
		}
		return newKey(fsys, name, generate)
	}
	if err != nil {
		return nil, err
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return nil, fmt.Errorf("%s: not PEM", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(p.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

func newKey(fsys durable.FS, name string, generate func() (any, error)) (any, error) {
	key, err := generate()
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, durable.WriteFile(fsys, name, text, 0o600)
}

// loadCertificate reads the TLS identity, and makes a self-signed one at the first start. The certificate alone may be made
// again: endpoints know the key.
func loadCertificate(fsys durable.FS, first bool) (tls.Certificate, error) {
	key, err := loadKey(fsys, tlsKeyFile, first, func() (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	if err != nil {
		return tls.Certificate{}, err
	}
	text, err := durable.ReadFile(fsys, tlsCertFile, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		k, ok := key.(*ecdsa.PrivateKey)
		if !ok {
			return tls.Certificate{}, fmt.Errorf("%s is missing; it belongs to %s, which this program did not make", tlsCertFile, tlsKeyFile)
		}
		if text, err = selfSigned(k); err != nil {
			return tls.Certificate{}, fmt.Errorf("make %s: %w", tlsCertFile, err)
		}
		err = durable.WriteFile(fsys, tlsCertFile, text, 0o644)
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	keyText, err := durable.ReadFile(fsys, tlsKeyFile, maxKeyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	c, err := tls.X509KeyPair(text, keyText)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s and %s: %w", tlsCertFile, tlsKeyFile, err)
	}
	return c, nil
}

// selfSigned makes a certificate that clients accept because they know its key; its names are for tools that insist on one.
func selfSigned(key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		names = append(names, host)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Synchronizer " + names[len(names)-1]},
		NotBefore:    now.Add(-24 * time.Hour), // endpoints' clocks are not exact
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// fingerprint is the SHA-256 of the certificate's public key (its SubjectPublicKeyInfo), so that it stays the same when the
// certificate is renewed with the same key.
func fingerprint(c tls.Certificate) (string, error) {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}
