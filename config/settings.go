package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"

	"disksync/internal/limit"
)

// Type is the type of a setting; its text is the D-Bus signature.
type Type string

// The types.
const (
	Bool Type = "b"
	Int  Type = "i" // 32 bits
	Text Type = "s"
)

// Setting describes one setting.
type Setting struct {
	Name     string
	Type     Type
	Default  any // bool, int32 or string
	Min, Max int32
	// Exposed says whether it is a property on D-Bus; the others are set in the file only.
	Exposed bool
	Help    string
	// parse reads a Text and returns it in the one form in which it is kept.
	parse func(string) (string, error)
}

// Names of the settings that programs ask for.
const (
	EnableDVDCache      = "enable-dvd-cache"
	EnableUSBCache      = "enable-usb-cache"
	ForceLocalChecksum  = "force-local-checksum"
	EnableUploadCompact = "enable-upload-compaction"
	DownloadChunk       = "download-cksize"
	UploadChunk         = "upload-cksize"
	LogLevel            = "vhdsync-log-level"
	Verbose             = "vhdsync-verbose"
	ConnectTimeout      = "xfer-connect-timeout"
	LowSpeedLimit       = "xfer-lowspeed-limit"
	LowSpeedTime        = "xfer-lowspeed-time"
	MaxParallelTasks    = "max-parallel-tasks"

	// The original did not have these.
	DownloadLimit      = "download-limit"
	UploadLimit        = "upload-limit"
	MeteredConnections = "metered-connections"
)

// All returns all settings in the order in which they are shown.
func All() []Setting {
	return append(historic(), []Setting{
		{Name: DownloadLimit, Type: Text, Default: "unlimited", Exposed: true, Help: "how much of the line downloads may take, and when", parse: parseLimit},
		{Name: UploadLimit, Type: Text, Default: "unlimited", Exposed: true, Help: "how much of the line backups may take, and when", parse: parseLimit},
		{Name: MeteredConnections, Type: Text, Default: "pause", Exposed: true, Help: "what nobody asked for by name may take of a metered connection",
			parse: parseMetered},
	}...)
}

// historic returns the settings of the original.
func historic() []Setting {
	setting := func(name string, t Type, def any, least, most int32, exposed bool, help string) Setting {
		return Setting{Name: name, Type: t, Default: def, Min: least, Max: most, Exposed: exposed, Help: help}
	}
	return []Setting{
		setting(EnableDVDCache, Bool, true, 0, 0, true, "take blocks from DVDs when downloading"),
		setting(EnableUSBCache, Bool, true, 0, 0, true, "take blocks from USB media when downloading"),
		setting(ForceLocalChecksum, Bool, false, 0, 0, true, "check a medium's copy as a whole before the transfer begins"),
		setting(EnableUploadCompact, Bool, true, 0, 0, true, "leave out blocks without content from uploads"),
		setting(DownloadChunk, Int, int32(80), 1, 4096, true, "largest range asked for at once when downloading, MB"),
		setting(UploadChunk, Int, int32(40), 1, 4096, true, "largest piece sent at once when uploading, MB"),
		setting(LogLevel, Int, int32(6), 0, 7, true, "least severe messages to log, as syslog numbers them"),
		setting(Verbose, Bool, false, 0, 0, true, "log HTTP requests and responses"),
		setting(ConnectTimeout, Int, int32(10), 1, 3600, true, "seconds to connect before the network counts as interrupted"),
		setting(LowSpeedLimit, Int, int32(1024), 1, math.MaxInt32, true, "bytes a second below which the network counts as interrupted …"),
		setting(LowSpeedTime, Int, int32(5), 1, 3600, true, "… after so many seconds"),
		setting(MaxParallelTasks, Int, int32(1), 1, 16, false, "operations that run at once"),
	}
}

// Errors of Set. The value in force stays.
var (
	ErrUnknown = errors.New("no such setting")
	ErrValue   = errors.New("value refused")
)

func find(name string) (Setting, error) {
	for _, s := range All() {
		if s.Name == name {
			return s, nil
		}
	}
	return Setting{}, fmt.Errorf("%q: %w", name, ErrUnknown)
}

// check returns v as the setting's own type.
func (s Setting) check(v any) (any, error) {
	switch s.Type {
	case Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case Text:
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%s: %w: %v is no text", s.Name, ErrValue, v)
		}
		text, err := s.parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %w", s.Name, ErrValue, err)
		}
		return text, nil
	case Int:
		var n int64
		switch x := v.(type) {
		case int32:
			n = int64(x)
		case int64:
			n = x
		case int:
			n = int64(x)
		default:
			return nil, fmt.Errorf("%s: %w: %v is not a number", s.Name, ErrValue, v)
		}
		if n < int64(s.Min) || n > int64(s.Max) {
			return nil, fmt.Errorf("%s: %w: %d is not between %d and %d", s.Name, ErrValue, n, s.Min, s.Max)
		}
		return int32(n), nil
	}
	return nil, fmt.Errorf("%s: %w: %v is not true or false", s.Name, ErrValue, v)
}

// Settings is a set of values. The zero value has all defaults. It is a value: With makes a changed copy.
type Settings struct{ values map[string]any }

// Get returns the value of a setting, a bool, an int32 or a string; nil for a name that is none.
func (s Settings) Get(name string) any {
	if v, ok := s.values[name]; ok {
		return v
	}
	d, err := find(name)
	if err != nil {
		return nil
	}
	return d.Default
}

// Bool returns the value of a setting of that type.
func (s Settings) Bool(name string) bool {
	b, _ := s.Get(name).(bool)
	return b
}

// Int returns the value of a setting of that type.
func (s Settings) Int(name string) int64 {
	n, _ := s.Get(name).(int32)
	return int64(n)
}

// Limit returns the value of DownloadLimit.
func (s Settings) Limit() limit.Schedule { return s.schedule(DownloadLimit) }

// Upload returns the value of UploadLimit.
func (s Settings) Upload() limit.Schedule { return s.schedule(UploadLimit) }

// Metered returns the value of MeteredConnections as what is let through.
func (s Settings) Metered() limit.Schedule { return s.schedule(MeteredConnections) }

func (s Settings) schedule(name string) limit.Schedule {
	text, _ := s.Get(name).(string)
	l, err := limit.Parse(cmp.Or(meteredWords[text], text))
	if err != nil {
		panic("config: internal error: " + name + ": " + err.Error()) // it was read when it was set
	}
	return l
}

// parseLimit reads a limit.
func parseLimit(text string) (string, error) {
	l, err := limit.Parse(text)
	return cmp.Or(l.String(), "unlimited"), err
}

// meteredWords are what one says of metered connections in place of limits.
var meteredWords = map[string]string{"allow": "unlimited", "pause": "off"}

// parseMetered reads allow, pause, or a limit.
func parseMetered(text string) (string, error) {
	if _, ok := meteredWords[text]; ok {
		return text, nil
	}
	text, err := parseLimit(text)
	for word, same := range meteredWords {
		if text == same {
			return word, err
		}
	}
	if err != nil {
		err = fmt.Errorf("want allow, pause, or a limit: %w", err)
	}
	return text, err
}

// With returns the settings with one value changed. The error wraps ErrUnknown or ErrValue.
func (s Settings) With(name string, v any) (Settings, error) {
	d, err := find(name)
	if err != nil {
		return s, err
	}
	v, err = d.check(v)
	if err != nil {
		return s, err
	}
	values := maps.Clone(s.values)
	if values == nil {
		values = map[string]any{}
	}
	values[name] = v
	return Settings{values}, nil
}
