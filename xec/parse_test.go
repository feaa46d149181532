package xec_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"disksync/xec"
)

// wireTrip sends a value through the encoding of D-Bus and returns what a
// receiver gets.
func wireTrip(t *testing.T, value any) any {
	t.Helper()
	message := &dbus.Message{
		Type: dbus.TypeSignal,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/")),
			dbus.FieldInterface: dbus.MakeVariant("a.b"),
			dbus.FieldMember:    dbus.MakeVariant("c"),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(value)),
		},
		Body: []any{value},
	}
	var wire bytes.Buffer
	if err := message.EncodeTo(&wire, binary.LittleEndian); err != nil {
		t.Fatalf("encode %v: %v", value, err)
	}
	received, err := dbus.DecodeMessage(&wire)
	if err != nil {
		t.Fatalf("decode %v: %v", value, err)
	}
	return received.Body[0]
}

// parse converts text to a value of the type with this signature.
func parse(t *testing.T, signature, text string) (any, error) {
	t.Helper()
	typ, err := xec.ParseType(signature)
	if err != nil {
		t.Fatal(err)
	}
	return xec.ParseValue(text, typ)
}

func TestParseValue(t *testing.T) {
	type (
		list   = []any // a structure, as it is received
		object = dbus.ObjectPath
	)
	tests := []struct {
		name, signature, text string
		want                  any
	}{
		{"true", "b", "true", true},
		{"one is true", "b", "1", true},
		{"false", "b", "false", false},
		{"zero is false", "b", "0", false},
		{"byte", "y", "255", byte(255)},
		{"int16", "n", "-32768", int16(-32768)},
		{"uint16", "q", "65535", uint16(65535)},
		{"int32", "i", "-2147483648", int32(-2147483648)},
		{"uint32", "u", "4294967295", uint32(4294967295)},
		{"int64", "x", "-9223372036854775808", int64(-9223372036854775808)},
		{"uint64", "t", "18446744073709551615", uint64(18446744073709551615)},
		{"leading zeros", "i", "007", int32(7)},
		{"minus zero", "i", "-0", int32(0)},
		{"double", "d", "-12.25", -12.25},
		{"double without fraction", "d", "3", 3.0},

		{"string", "s", "a b", "a b"},
		{"empty string", "s", "", ""},
		{"quotes at the top are text", "s", `"a"`, `"a"`},
		{"blanks at the top are text", "s", "  a ", "  a "},
		{"brackets at the top are text", "s", "[a]", "[a]"},
		{"backslash at the top is text", "s", `a\\b`, `a\\b`},
		{"unicode", "s", "größer ✓", "größer ✓"},
		{"control characters", "s", "a\x1b[0m\nb", "a\x1b[0m\nb"},
		{"path", "o", "/vm/0_1", object("/vm/0_1")},
		{"root", "o", "/", object("/")},

		{"rest after true", "b", "truest", true},
		{"rest after number", "i", "12abc", int32(12)},
		{"rest after number is a fraction", "i", "1.9", int32(1)},
		{"exponent is a rest", "d", "1e5", 1.0},
		{"rest after array", "ai", "[1] 2", []int32{1}},
		{"rest after dictionary", "a{ss}", "{}}", map[string]string{}},
		{"rest after structure", "(i)", "[1]]", list{int32(1)}},

		{"empty array", "as", "[]", []string{}},
		{"empty array with a blank", "as", "[ ]", []string{}},
		{"array", "ai", "[1,2,3]", []int32{1, 2, 3}},
		{"array with blanks", "ai", " \t[ 1 ,\n2 ] ", []int32{1, 2}},
		{"bytes", "ay", "[0, 255]", []byte{0, 255}},
		{"strings", "as", `["a", 'b']`, []string{"a", "b"}},
		{"other quotes are text", "as", `["it's", 'a "b"']`, []string{"it's", `a "b"`}},
		{"escapes", "as", `["a\"b\\c", 'd\'e']`, []string{`a"b\c`, `d'e`}},
		{"backslash before another letter stays", "as", `["a\nb\'c", 'd\"e']`, []string{`a\nb\'c`, `d\"e`}},
		{"brackets in quotes", "as", `["],[", ":}"]`, []string{"],[", ":}"}},
		{"paths are quoted too", "ao", `["/", "/a"]`, []object{"/", "/a"}},
		{"nested arrays", "aai", "[[1], [], [2, 3]]", [][]int32{{1}, {}, {2, 3}}},

		{"empty dictionary", "a{ss}", "{}", map[string]string{}},
		{"dictionary", "a{ss}", `{"a" : "b", 'c':'d'}`, map[string]string{"a": "b", "c": "d"}},
		{"numbers as keys", "a{ud}", "{ 1 : 0.5 , 2:1 }", map[uint32]float64{1: 0.5, 2: 1}},
		{"last of equal keys", "a{si}", `{"a" : 1, "a" : 2}`, map[string]int32{"a": 2}},
		{"nested dictionary", "a{sa{si}}", `{"a" : {"b" : 1}}`, map[string]map[string]int32{"a": {"b": 1}}},
		{"dictionary of arrays", "a{sas}", `{"a" : ["b"]}`, map[string][]string{"a": {"b"}}},

		{"structure", "(si)", `["a", 1]`, list{"a", int32(1)}},
		{"nested structure", "(s(ib))", `["a", [1, true]]`, list{"a", list{int32(1), true}}},
		{"array of structures", "a(si)", `[["a", 1], ["b", 2]]`, [][]any{{"a", int32(1)}, {"b", int32(2)}}},
		{"structure of containers", "(asa{sb})", `[["x"], {"y" : 0}]`, list{[]string{"x"}, map[string]bool{"y": false}}},

		{"no variants", "av", "[]", []dbus.Variant{}},
		{"no settings", "a{sv}", "{ }", map[string]dbus.Variant{}},
		{"no signatures", "ag", "[]", []dbus.Signature{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value, err := parse(t, test.signature, test.text)
			if err != nil {
				t.Fatal(err)
			}
			if got := dbus.SignatureOf(value).String(); got != test.signature {
				t.Errorf("signature %q, want %q", got, test.signature)
			}
			if diff := cmp.Diff(test.want, wireTrip(t, value)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestParseValueRefuses(t *testing.T) {
	tests := []struct {
		name, signature, text string
	}{
		{"no truth value", "b", ""},
		{"capital", "b", "True"},
		{"number as truth value", "b", "2"},
		{"part of a word", "b", "tru"},
		{"no number", "i", ""},
		{"letters", "i", "abc"},
		{"blank before number", "i", " 1"},
		{"plus", "i", "+1"},
		{"sign alone", "i", "-"},
		{"hexadecimal sign", "i", "x10"},
		{"non-ASCII digits", "i", "١٢"},
		{"byte too large", "y", "256"},
		{"byte below zero", "y", "-1"},
		{"int16 too large", "n", "32768"},
		{"uint16 too large", "q", "65536"},
		{"int32 too large", "i", "2147483648"},
		{"int32 too small", "i", "-2147483649"},
		{"uint32 too large", "u", "4294967296"},
		{"int64 too large", "x", "9223372036854775808"},
		{"uint64 too large", "t", "18446744073709551616"},
		{"uint64 below zero", "t", "-1"},
		{"no double", "d", ""},
		{"fraction alone", "d", ".5"},
		{"negative fraction alone", "d", "-.5"},
		{"point without digits", "d", "1."},
		{"point and letters", "d", "1.x"},
		{"infinity", "d", "Infinity"},
		{"not a number", "d", "NaN"},
		{"double too large", "d", strings.Repeat("9", 400)},
		{"invalid UTF-8", "s", "a\xff"},
		{"zero byte", "s", "a\x00b"},
		{"relative path", "o", "a/b"},
		{"empty path", "o", ""},
		{"path with slash at the end", "o", "/a/"},
		{"path with dash", "o", "/a-b"},

		{"array without brackets", "ai", "1, 2"},
		{"empty word as array", "ai", ""},
		{"open array", "ai", "[1, 2"},
		{"array without comma", "ai", "[1 2]"},
		{"comma at the end", "ai", "[1,]"},
		{"comma at the start", "ai", "[,1]"},
		{"wrong element", "ai", "[1, x]"},
		{"byte out of range", "ay", "[256]"},
		{"text without quotes", "as", "[a]"},
		{"open quote", "as", `["a]`},
		{"quotes that differ", "as", `["a']`},
		{"escaped closing quote", "as", `["a\"]`},
		{"invalid UTF-8 in array", "as", "[\"\xff\"]"},
		{"bad path in array", "ao", `["a"]`},
		{"braces for array", "ai", "{1}"},
		{"brackets for dictionary", "a{ss}", "[]"},
		{"dictionary without colon", "a{ss}", `{"a" "b"}`},
		{"dictionary without value", "a{ss}", `{"a" :}`},
		{"open dictionary", "a{ss}", `{"a" : "b"`},
		{"dictionary comma at the end", "a{ss}", `{"a" : "b",}`},
		{"structure with too few", "(si)", `["a"]`},
		{"structure with none", "(si)", "[]"},
		{"structure with too many", "(i)", "[1, 2]"},
		{"structure in parentheses", "(si)", `("a", 1)`},
		{"open structure", "(i)", "[1"},

		{"variant", "v", "1"},
		{"array of variants", "av", "[1]"},
		{"dictionary of variants", "a{sv}", `{"a" : 1}`},
		{"signature", "g", "s"},
		{"file descriptor", "h", "0"},
		{"truth values as keys", "a{bs}", `{true : "a"}`},
		{"truth values as keys of nothing", "aa{bs}", `[]`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value, err := parse(t, test.signature, test.text)
			if !errors.Is(err, xec.ErrValue) {
				t.Errorf("ParseValue(%q, %s) = %v, %v; want %v", test.text, test.signature, value, err, xec.ErrValue)
			}
		})
	}
}

// The zero Type comes from no constructor; it must do no harm.
func TestParseValueOfNoType(t *testing.T) {
	if value, err := xec.ParseValue("1", xec.Type{}); !errors.Is(err, xec.ErrValue) {
		t.Errorf("got %v, %v", value, err)
	}
}

// Values of these types are shown in a form that can be entered again.
func TestShownValuesCanBeEntered(t *testing.T) {
	tests := []struct{ signature, text string }{
		{"b", "true"}, {"b", "false"}, {"y", "7"}, {"n", "-7"}, {"q", "7"}, {"i", "-7"}, {"u", "7"},
		{"x", "-7"}, {"t", "7"}, {"d", "0.1"}, {"d", "-9999999.5"}, {"d", "0.0"}, {"s", " x\ny"}, {"o", "/a/b"},
	}
	for _, test := range tests {
		value, err := parse(t, test.signature, test.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := xec.ShowValue(wireTrip(t, value)); got != test.text {
			t.Errorf("%s: %q is shown as %q", test.signature, test.text, got)
		}
	}
}

// FuzzParseValue checks that no text makes the parser fail other than with its
// error, and that what it accepts can be sent and shown.
func FuzzParseValue(f *testing.F) {
	seeds := []struct{ signature, text string }{
		{"b", "true"}, {"y", "256"}, {"i", "-12abc"}, {"d", "1.5"}, {"s", "a\x00"}, {"o", "/a"},
		{"ay", "[1, 2]"}, {"as", `["a\"", 'b\\']`}, {"a{ss}", `{"a" : "b", "a" : "c"}`}, {"a{sv}", "{}"},
		{"(si)", `["a", 1]`}, {"a(sa{ud})", `[["a", {1 : 0.5}]]`}, {"aai", "[[1],[]]"}, {"v", "1"}, {"a{bs}", "{}"},
		{"a{d(yyy)}", "{0.5 : [1,2,3]}"}, {"ao", `["/"]`}, {"ag", "[]"}, {"ah", "[]"}, {"x", strings.Repeat("9", 99)},
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s.signature, s.text)
	}
	f.Fuzz(func(t *testing.T, signature, text string) {
		typ, err := xec.ParseType(signature)
		if err != nil {
			return
		}
		if typ.String() != signature {
			t.Fatalf("type %q reads as %q", signature, typ)
		}
		value, err := xec.ParseValue(text, typ)
		if err != nil {
			if !errors.Is(err, xec.ErrValue) {
				t.Fatalf("unexpected error: %v", err)
			}
			return
		}
		if got := dbus.SignatureOf(value).String(); got != signature {
			t.Fatalf("value for %q has signature %q", signature, got)
		}
		_ = xec.ShowValue(wireTrip(t, value))
	})
}
