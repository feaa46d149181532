package xec_test

import (
	"math"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/xec"
)

func TestShowValue(t *testing.T) {
	signature, err := dbus.ParseSignature("a{sv}i")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		value any
		want  string
	}{
		{"string is raw", "a \"b\"\n\x1b[31m", "a \"b\"\n\x1b[31m"},
		{"empty string", "", ""},
		{"path", dbus.ObjectPath("/a"), "/a"},
		{"signature", signature, "a{sv}i"},
		{"true", true, "true"},
		{"false", false, "false"},
		{"byte", byte(200), "200"},
		{"int16", int16(-1), "-1"},
		{"uint16", uint16(65535), "65535"},
		{"int32", int32(math.MinInt32), "-2147483648"},
		{"uint32", uint32(math.MaxUint32), "4294967295"},
		{"int64", int64(math.MinInt64), "-9223372036854775808"},
		{"uint64", uint64(math.MaxUint64), "18446744073709551615"},
		{"descriptor", dbus.UnixFDIndex(3), "3"},
		{"variant", dbus.MakeVariant(dbus.MakeVariant("x")), "x"},

		{"strings", []string{"a", "b c"}, "a\nb c"},
		{"empty array", []string{}, ""},
		{"array with empty strings", []string{"", ""}, "\n"},
		{"nested arrays are flat", [][]int32{{1, 2}, {}, {3}}, "1\n2\n\n3"},
		{"variants", []dbus.Variant{dbus.MakeVariant(1.0), dbus.MakeVariant("s")}, "1.0\ns"},
		{"structure", []any{"a", int32(1), []any{true, 0.5}}, "a\n1\ntrue\n0.5"},
		{"bytes", []byte("ab"), `"ab"`},
		{"no bytes", []byte{}, `""`},
		{"arrays of bytes", [][]byte{[]byte("a"), {0}}, "\"a\"\n\"\\NUL\""},

		{"empty dictionary", map[string]string{}, "{\n}"},
		{"dictionary", map[string]string{"b": "2", "a": "1"},
			"{\n" +
				"  \"a\"                            = 1\n" +
				"  \"b\"                            = 2\n" +
				"}"},
		{"long key", map[string]int32{"a-key-of-more-than-thirty-characters": 1},
			"{\n  \"a-key-of-more-than-thirty-characters\" = 1\n}"},
		{"key of thirty with quotes", map[string]int32{"0123456789012345678901234567": 1},
			"{\n  \"0123456789012345678901234567\" = 1\n}"},
		{"padding counts characters", map[string]int32{"äöü": 1},
			"{\n  \"äöü\"                          = 1\n}"},
		{"numbers are sorted as numbers", map[int32]string{10: "ten", 9: "nine", -1: "minus"},
			"{\n" +
				"  \"-1\"                           = minus\n" +
				"  \"9\"                            = nine\n" +
				"  \"10\"                           = ten\n" +
				"}"},
		{"unsigned numbers", map[uint64]bool{10: true, 9: false},
			"{\n" +
				"  \"9\"                            = false\n" +
				"  \"10\"                           = true\n" +
				"}"},
		{"doubles as keys", map[float64]bool{10: true, 9.5: false},
			"{\n" +
				"  \"9.5\"                          = false\n" +
				"  \"10.0\"                         = true\n" +
				"}"},
		{"nested dictionary", map[string]map[string]int32{"a": {"b": 1}},
			"{\n" +
				"  \"a\"                            = {\n" +
				"  \"b\"                            = 1\n" +
				"}\n" +
				"}"},
		{"dictionary of arrays", map[string][]string{"a": {"x", "y"}},
			"{\n  \"a\"                            = x\ny\n}"},
		{"dictionary of variants", map[string]dbus.Variant{"a": dbus.MakeVariant([]byte{'\n'})},
			"{\n  \"a\"                            = \"\\n\"\n}"},
		{"array of dictionaries", []map[string]string{{}, {}}, "{\n}\n{\n}"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, xec.ShowValue(test.value)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// The expectations are what Haskell's show gives.
func TestShowDouble(t *testing.T) {
	tests := []struct {
		value float64
		want  string
	}{
		{0, "0.0"},
		{math.Copysign(0, -1), "-0.0"},
		{1, "1.0"},
		{-1, "-1.0"},
		{0.5, "0.5"},
		{0.1, "0.1"},
		{0.09999999999999999, "9.999999999999999e-2"},
		{0.01, "1.0e-2"},
		{-0.015, "-1.5e-2"},
		{0.3333333333333333, "0.3333333333333333"},
		{123.456, "123.456"},
		{9999999, "9999999.0"},
		{9999999.9, "9999999.9"},
		{1e7, "1.0e7"},
		{-12345678, "-1.2345678e7"},
		{1.5e10, "1.5e10"},
		{1e100, "1.0e100"},
		{1e-100, "1.0e-100"},
		{math.MaxFloat64, "1.7976931348623157e308"},
		{math.SmallestNonzeroFloat64, "5.0e-324"},
		{math.Inf(1), "Infinity"},
		{math.Inf(-1), "-Infinity"},
		{math.NaN(), "NaN"},
	}
	for _, test := range tests {
		if got := xec.ShowValue(test.value); got != test.want {
			t.Errorf("%v is shown as %q, want %q", test.value, got, test.want)
		}
	}
}

// The expectations are what Haskell's show gives for a ByteString.
func TestShowBytes(t *testing.T) {
	tests := []struct {
		name, bytes, want string
	}{
		{"printable", "Hello, world~ ", `"Hello, world~ "`},
		{"quote and backslash", `a"b\c'`, `"a\"b\\c'"`},
		{"named", "\x00\x01\x1f\x7f", `"\NUL\SOH\US\DEL"`},
		{"C escapes", "\a\b\t\n\v\f\r", `"\a\b\t\n\v\f\r"`},
		{"escape", "\x1b[0m", `"\ESC[0m"`},
		{"numbers", "\x80\xff", `"\128\255"`},
		{"number before digit", "\xff0\xffa", `"\255\&0\255a"`},
		{"SO before H", "\x0eH\x0eI", `"\SO\&H\SOI"`},
		{"name before digit", "\x001", `"\NUL1"`},
		{"UTF-8", "ü", `"\195\188"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := xec.ShowValue([]byte(test.bytes)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
