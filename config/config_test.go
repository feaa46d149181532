package config_test

import (
	"errors"
	"strings"
	"testing"

	"disksync/config"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
)

func open(t *testing.T, fsys durable.FS) *config.Store {
	t.Helper()
	s, err := config.Open(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	s := open(t, faultfs.New()).Current()
	for _, d := range config.All() {
		if got := s.Get(d.Name); got != d.Default {
			t.Errorf("%s is %v, want %v", d.Name, got, d.Default)
		}
		if _, err := s.With(d.Name, d.Default); err != nil {
			t.Errorf("%s: its own default is refused: %v", d.Name, err)
		}
	}
}

func TestSetSurvives(t *testing.T) {
	fsys := faultfs.New()
	if err := durable.WriteFile(fsys, config.File, []byte("from-the-future = 'kept'\nupload-cksize = 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, fsys)
	if err := s.Set(config.EnableUSBCache, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(config.DownloadChunk, int32(5)); err != nil {
		t.Fatal(err)
	}
	again := open(t, fsys)
	c := again.Current()
	if c.Bool(config.EnableUSBCache) || c.Int(config.DownloadChunk) != 5 || c.Int(config.UploadChunk) != 7 {
		t.Error("values did not survive")
	}
	if !c.Bool(config.EnableDVDCache) {
		t.Error("another setting changed")
	}
	b, err := durable.ReadFile(fsys, config.File, 1<<10)
	if err != nil || !strings.Contains(string(b), "from-the-future") {
		t.Errorf("a newer program's setting is lost: %s %v", b, err)
	}
}

func TestRefused(t *testing.T) {
	s := open(t, faultfs.New())
	for _, c := range []struct {
		name string
		v    any
		want error
	}{
		{"no-such", true, config.ErrUnknown},
		{config.EnableUSBCache, int32(1), config.ErrValue},
		{config.EnableUSBCache, "true", config.ErrValue},
		{config.DownloadChunk, true, config.ErrValue},
		{config.DownloadChunk, int32(0), config.ErrValue},
		{config.LogLevel, int32(8), config.ErrValue},
	} {
		before := s.Current().Get(c.name)
		if err := s.Set(c.name, c.v); !errors.Is(err, c.want) {
			t.Errorf("set %s to %v: %v", c.name, c.v, err)
		}
		if s.Current().Get(c.name) != before {
			t.Errorf("%s changed all the same", c.name)
		}
	}
}

// TestDamagedFile: what the administrator turned off must not come back because a file cannot be read.
func TestDamagedFile(t *testing.T) {
	for _, text := range []string{"enable-usb-cache = maybe", "enable-usb-cache = 3", "[[[", "download-cksize = 99999"} {
		fsys := faultfs.New()
		if err := durable.WriteFile(fsys, config.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Open(fsys); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// TestTexts: a text is kept in one form, and nonsense is refused.
func TestTexts(t *testing.T) {
	fsys := faultfs.New()
	s := open(t, fsys)
	for _, c := range []struct{ name, text, want string }{
		{config.DownloadLimit, "60% ; 10m@mon-fri/8-18", "60%;10M@Mon-Fri/8-18"},
		{config.DownloadLimit, "", "unlimited"},
		{config.DownloadLimit, "0", "off"},
		{config.MeteredConnections, "allow", "allow"},
		{config.MeteredConnections, "off", "pause"},
		{config.MeteredConnections, "", "allow"},
		{config.MeteredConnections, "unlimited", "allow"},
		{config.MeteredConnections, "pause", "pause"},
		{config.MeteredConnections, "100k;off@8-18", "100K;off@8-18"},
	} {
		if err := s.Set(c.name, c.text); err != nil || s.Current().Get(c.name) != c.want || open(t, fsys).Current().Get(c.name) != c.want {
			t.Errorf("%s = %q: %v, %v, want %q", c.name, c.text, s.Current().Get(c.name), err, c.want)
		}
	}
	if a := s.Current().Metered().String(); a != "100K;off@8-18" {
		t.Error(a)
	}
	if s.Current().Limit().String() != "off" {
		t.Error(s.Current().Limit())
	}
	for _, c := range []struct {
		name string
		v    any
	}{{config.DownloadLimit, "much"}, {config.DownloadLimit, "pause"}, {config.DownloadLimit, 5}, {config.MeteredConnections, "never"}, {config.MeteredConnections, false}} {
		if err := s.Set(c.name, c.v); !errors.Is(err, config.ErrValue) {
			t.Errorf("%s = %v: %v", c.name, c.v, err)
		}
	}
}
