package dbusapi_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMembersAreDocumented: docs/dbus.md has each method, signal and property with its types, below the heading of its
// interface, each default, and nothing else.
func TestMembersAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/dbus.md")
	if err != nil {
		t.Fatal(err)
	}
	// The original's interfaces are compared with the introspection data elsewhere; our own is as it says of itself.
	faces := maps.Clone(historic)
	faces[ownFace] = newRig(t).describe("/").members[ownFace]
	changing := map[string]bool{}
	for _, m := range changes {
		changing[m.method] = true
	}
	for face, members := range faces {
		_, text, ok := strings.Cut(string(b), "\n### `"+face+"`\n")
		text, _, _ = strings.Cut(text, "\n#")
		if !ok || len(members) == 0 {
			t.Errorf("%s with %d members has no section: %t", face, len(members), !ok)
			continue
		}
		var want []string
		for _, m := range members {
			want = append(want, row(face, m, changing))
		}
		for _, w := range want {
			if !strings.Contains(text, "\n"+w) {
				t.Errorf("%s: there is no row %q", face, w)
			}
		}
		for _, line := range regexp.MustCompile("(?m)^\\| `.*$").FindAllString(text, -1) {
			if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(line, w) }) {
				t.Errorf("%s has nothing like %q", face, line)
			}
		}
	}
}

// row returns how the row of a member begins.
func row(face, member string, changing map[string]bool) string {
	kind, rest, _ := strings.Cut(member, " ")
	switch kind {
	case "signal":
		return fmt.Sprintf("| `%s` | ", rest)
	case "method":
		name, _, _ := strings.Cut(rest, "(")
		right := "look"
		if changing[face+"."+name] {
			right = "change"
		}
		return fmt.Sprintf("| `%s` | %s | ", rest, right)
	}
	signature, name, _ := strings.Cut(rest, " ")
	if face == confFace {
		return fmt.Sprintf("| `%s` | %s | %v | ", name, signature, defaults[name])
	}
	return fmt.Sprintf("| `%s` | %s | ", name, signature)
}
