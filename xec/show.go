package xec

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// ShowValue returns the text that is printed for a value received from D-Bus,
// without a newline at its end.
//
// Text is not escaped, not even control characters: scripts read this output and
// expect the very bytes the service sent. Arrays and structures have one element
// a line, variants vanish, byte arrays are one quoted string.
func ShowValue(v any) string {
	switch v := v.(type) {
	case dbus.Variant:
		return ShowValue(v.Value())
	case string:
		return v
	case dbus.ObjectPath:
		return string(v)
	case dbus.Signature:
		// The original showed the inner names of its D-Bus library here, which
		// nobody can have relied on.
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case float64:
		return showDouble(v)
	case []byte:
		return showBytes(v)
	}
	return showReflected(reflect.ValueOf(v))
}

// showReflected shows whole numbers and containers of any type.
func showReflected(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10)
	case reflect.Slice:
		lines := make([]string, v.Len())
		for i := range lines {
			lines[i] = ShowValue(v.Index(i).Interface())
		}
		return strings.Join(lines, "\n")
	case reflect.Map:
		var out strings.Builder
		out.WriteString("{\n")
		for _, e := range sortedEntries(v) {
			out.WriteString(e.line(30))
		}
		out.WriteString("}")
		return out.String()
	}
	// Not reachable with what the D-Bus library decodes.
	return fmt.Sprint(v)
}

// entry is one entry of a dictionary.
type entry struct {
	key, value reflect.Value
}

// line shows an entry, its key padded to width. The width counts characters, not
// bytes. Only the first line of a value is indented; so it has always been.
func (e entry) line(width int) string {
	key := `"` + ShowValue(e.key.Interface()) + `"`
	return fmt.Sprintf("  %-*s = %s\n", width, key, ShowValue(e.value.Interface()))
}

// sortedEntries returns the entries of a map in the order of their keys. D-Bus
// gives the entries of a dictionary no order and the D-Bus library keeps none;
// sorted, the same content at least always looks the same.
func sortedEntries(m reflect.Value) []entry {
	entries := make([]entry, 0, m.Len())
	for it := m.MapRange(); it.Next(); {
		entries = append(entries, entry{it.Key(), it.Value()})
	}
	slices.SortFunc(entries, func(a, b entry) int { return compareKeys(a.key, b.key) })
	return entries
}

// compareKeys compares two dictionary keys of the same type.
func compareKeys(a, b reflect.Value) int {
	switch {
	case a.CanInt():
		return cmp.Compare(a.Int(), b.Int())
	case a.CanUint():
		return cmp.Compare(a.Uint(), b.Uint())
	case a.CanFloat():
		return cmp.Compare(a.Float(), b.Float())
	}
	return cmp.Compare(a.String(), b.String())
}
