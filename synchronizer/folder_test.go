package synchronizer_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/synchronizer"
)

// findIn returns the first file below dir that has one of the texts, and "" when none has.
func findIn(t *testing.T, dir string, texts ...string) string {
	t.Helper()
	found, files := "", 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(p)
		for _, text := range texts {
			if bytes.Contains(b, []byte(text)) && found == "" {
				found = p
			}
		}
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("looked through %d files of %s: %v", files, dir, err)
	}
	return found
}

func TestFirstStart(t *testing.T) {
	h := newHouse(t)
	h.user(t, "alice", false)
	h.publish(t, "golden", 1, image.State{}, disk(1))
	fingerprint, key := h.Fingerprint(), h.SigningKey()

	t.Run("permissions", func(t *testing.T) {
		files := 0
		err := filepath.WalkDir(h.dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			i, err := d.Info()
			if err != nil {
				return err
			}
			files++
			public := d.Name() == "tls.crt"
			if i.Mode().Perm()&0o077 != 0 && !public {
				t.Errorf("%s has mode %v", p, i.Mode())
			}
			return nil
		})
		if err != nil || files < 8 {
			t.Errorf("%d files, %v", files, err)
		}
	})
	t.Run("a second process", func(t *testing.T) {
		_, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: h.dir})
		if !errors.Is(err, durable.ErrLocked) {
			t.Errorf("opened twice: %v", err)
		}
	})
	t.Run("restart", func(t *testing.T) {
		h.restart(t)
		if h.Fingerprint() != fingerprint || h.SigningKey() != key {
			t.Error("another identity")
		}
	})
	t.Run("new certificate", func(t *testing.T) {
		before := read(t, h.path("tls.crt"))
		remove(t, h.path("tls.crt"))
		h.restart(t)
		if h.Fingerprint() != fingerprint || bytes.Equal(read(t, h.path("tls.crt")), before) {
			t.Error("want a new certificate with the old key")
		}
	})
	t.Run("unfinished files go", func(t *testing.T) {
		for _, name := range []string{"x.tmp", "layers/x.tmp", "states/x.tmp"} {
			write(t, h.path(name), nil)
		}
		h.restart(t)
		for _, name := range []string{"x.tmp", "layers/x.tmp", "states/x.tmp"} {
			if _, err := os.Stat(h.path(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestLostIdentity: where there is a catalog the keys are not made anew, since no endpoint would know them.
func TestLostIdentity(t *testing.T) {
	h := newHouse(t)
	h.close(t)
	for _, name := range []string{"signing.key", "tls.key"} {
		t.Run(name, func(t *testing.T) {
			kept := read(t, h.path(name))
			for what, content := range map[string][]byte{"missing": nil, "damaged": kept[:len(kept)/2], "of another kind": read(t, h.path("tls.crt"))} {
				remove(t, h.path(name))
				if content != nil {
					write(t, h.path(name), content)
				}
				if s, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: h.dir}); err == nil {
					t.Errorf("opened with %s %s", name, what)
					s.Close()
				} else if !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v", what, err)
				}
				write(t, h.path(name), kept)
			}
		})
	}
	h.open(t)
}

// TestNewerCatalog: a program that is older than the catalog leaves it alone.
func TestNewerCatalog(t *testing.T) {
	h := newHouse(t)
	if err := h.Exec(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	h.close(t)
	_, err := synchronizer.Open(context.Background(), synchronizer.Options{Dir: h.dir})
	if err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("%v", err)
	}
	h.dir = filepath.Join(t.TempDir(), "data")
	h.open(t)
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}
