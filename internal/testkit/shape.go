package testkit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// JSONShape returns the shape of a JSON text: a line for each name in it, with the type of its value, in the order of the names.
// The elements of a list have one shape together. It is for tests of what programs promise to print, whatever the values are.
func JSONShape(text []byte) (string, error) {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return "", err
	}
	seen := map[string]bool{}
	shape("", v, seen)
	lines := make([]string, 0, len(seen))
	for line := range seen {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

func shape(at string, v any, seen map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		if at != "" {
			seen[at+" object"] = true
		}
		for name, e := range v {
			shape(at+"."+name, e, seen)
		}
	case []any:
		for _, e := range v {
			shape(at+"[]", e, seen)
		}
		if len(v) == 0 {
			seen[at+"[] empty"] = true
		}
	case nil:
		seen[at+" null"] = true
	default:
		name := map[string]string{"float64": "number", "bool": "truth"}[fmt.Sprintf("%T", v)]
		if name == "" {
			name = "text"
		}
		seen[at+" "+name] = true
	}
}
