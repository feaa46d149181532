package xec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// showDouble shows a number as Haskell does, the language of the original:
// always with a fraction, from 0.1 up to 10⁷ without an exponent, and with one
// outside of that (1.0e-2, 1.5e7).
func showDouble(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if a := math.Abs(f); a == 0 || (0.1 <= a && a < 1e7) {
		return withFraction(strconv.FormatFloat(f, 'f', -1, 64))
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	// Go writes at least two digits and a sign ("e-05", "e+07").
	sign, digits := "", strings.TrimLeft(exponent, "+-0")
	if strings.HasPrefix(exponent, "-") {
		sign = "-"
	}
	return withFraction(mantissa) + "e" + sign + digits
}

// withFraction adds the fraction that a whole number lacks.
func withFraction(digits string) string {
	if strings.Contains(digits, ".") {
		return digits
	}
	return digits + ".0"
}

// asciiNames are the escapes of the characters 0 to 31, without the backslash.
const asciiNames = "NUL SOH STX ETX EOT ENQ ACK a b t n v f r SO SI " +
	"DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"

// showBytes shows a byte array as a Haskell string literal: printable ASCII
// stands for itself, other bytes have a name (\NUL, \n, \DEL) or their number
// (\200). The empty escape \& keeps apart what would be read as one: a number and
// the digit after it, and SO and H, which would make SOH.
func showBytes(data []byte) string {
	names := strings.Fields(asciiNames)
	var out strings.Builder
	out.WriteByte('"')
	for i, b := range data {
		var next byte
		if i+1 < len(data) {
			next = data[i+1]
		}
		switch {
		case b == '"' || b == '\\':
			out.WriteByte('\\')
			out.WriteByte(b)
		case b < ' ':
			out.WriteString(`\` + names[b])
			if b == 14 && next == 'H' {
				out.WriteString(`\&`)
			}
		case b < 127:
			out.WriteByte(b)
		case b == 127:
			out.WriteString(`\DEL`)
		default:
			fmt.Fprintf(&out, `\%d`, b)
			if '0' <= next && next <= '9' {
				out.WriteString(`\&`)
			}
		}
	}
	out.WriteByte('"')
	return out.String()
}
