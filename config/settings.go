package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
)

// Type is the type of a setting; its text is the D-Bus signature.
type Type string

// The types.
const (
	Bool Type = "b"
	Int  Type = "i" // 32 bits
)

// Setting describes one setting.
type Setting struct {
	Name     string
	Type     Type
	Default  any // bool or int32
	Min, Max int32
	// Exposed says whether it is a property on D-Bus; the others are set in the file only.
	Exposed bool
	Help    string
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
)

// All returns all settings in the order in which they are shown.
func All() []Setting {
	return []Setting{
		{EnableDVDCache, Bool, true, 0, 0, true, "take blocks from DVDs when downloading"},
		{EnableUSBCache, Bool, true, 0, 0, true, "take blocks from USB media when downloading"},
		{ForceLocalChecksum, Bool, false, 0, 0, true, "check a medium's copy as a whole before the transfer begins"},
		{EnableUploadCompact, Bool, true, 0, 0, true, "leave out blocks without content from uploads"},
		{DownloadChunk, Int, int32(80), 1, 4096, true, "largest range asked for at once when downloading, MB"},
		{UploadChunk, Int, int32(40), 1, 4096, true, "largest piece sent at once when uploading, MB"},
		{LogLevel, Int, int32(6), 0, 7, true, "least severe messages to log, as syslog numbers them"},
		{Verbose, Bool, false, 0, 0, true, "log HTTP requests and responses"},
		{ConnectTimeout, Int, int32(10), 1, 3600, true, "seconds to connect before the network counts as interrupted"},
		{LowSpeedLimit, Int, int32(1024), 1, math.MaxInt32, true, "bytes a second below which the network counts as interrupted …"},
		{LowSpeedTime, Int, int32(5), 1, 3600, true, "… after so many seconds"},
		{MaxParallelTasks, Int, int32(1), 1, 16, false, "operations that run at once"},
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

// Get returns the value of a setting, a bool or an int32; nil for a name that is none.
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
