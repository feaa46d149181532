package xec_test

import (
	"strings"
	"testing"

	"disksync/xec"
)

func TestParseType(t *testing.T) {
	deep := strings.Repeat
	tests := []struct {
		name, signature string
		bad             bool
	}{
		{name: "byte", signature: "y"},
		{name: "variant", signature: "v"},
		{name: "handle", signature: "h"},
		{name: "array", signature: "as"},
		{name: "array of arrays", signature: "aay"},
		{name: "dictionary", signature: "a{sv}"},
		{name: "dictionary of dictionaries", signature: "a{sa{us}}"},
		{name: "structure", signature: "(si)"},
		{name: "all at once", signature: "a{o(sa(bda{tv})ag)}"},
		{name: "32 arrays", signature: deep("a", 32) + "y"},
		{name: "32 structures", signature: deep("(", 32) + "y" + deep(")", 32)},

		{name: "nothing", signature: "", bad: true},
		{name: "two types", signature: "ss", bad: true},
		{name: "unknown letter", signature: "z", bad: true},
		{name: "array of nothing", signature: "a", bad: true},
		{name: "empty structure", signature: "()", bad: true},
		{name: "open structure", signature: "(s", bad: true},
		{name: "structure not opened", signature: "s)", bad: true},
		{name: "entry outside of an array", signature: "{ss}", bad: true},
		{name: "open dictionary", signature: "a{ss", bad: true},
		{name: "empty dictionary", signature: "a{}", bad: true},
		{name: "dictionary without values", signature: "a{s}", bad: true},
		{name: "dictionary with two values", signature: "a{sss}", bad: true},
		{name: "variant as key", signature: "a{vs}", bad: true},
		{name: "array as key", signature: "a{ass}", bad: true},
		{name: "crossed brackets", signature: "(a{s)}", bad: true},
		{name: "33 arrays", signature: deep("a", 33) + "y", bad: true},
		{name: "33 structures", signature: deep("(", 33) + "y" + deep(")", 33), bad: true},
		{name: "256 characters", signature: "(" + deep("y", 254) + ")", bad: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := xec.ParseType(test.signature)
			switch {
			case test.bad && err == nil:
				t.Errorf("ParseType(%q) = %q, want an error", test.signature, got)
			case !test.bad && err != nil:
				t.Error(err)
			case !test.bad && got.String() != test.signature:
				t.Errorf("ParseType(%q) = %q", test.signature, got)
			}
		})
	}
}
