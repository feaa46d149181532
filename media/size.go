package media

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
)

// named are the sizes of discs that can be bought, in bytes: what the smallest of each kind takes.
var named = map[string]int64{
	"cd":     358_400 * 2048,    // 700 MiB
	"dvd":    2_295_104 * 2048,  // DVD+R; DVD-R has a little more
	"dvd-dl": 4_171_712 * 2048,  // DVD-R DL; DVD+R DL has a little more
	"bd":     12_219_392 * 2048, // BD-R
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)(iB|B)?$`)

// ParseSize reads the size of a medium or a file: a name, or a number with K, M, G or T, which are powers of 1000 as manufacturers
// count, or of 1024 with iB behind. It returns bytes, from 1 to 2^62.
func ParseSize(s string) (int64, error) {
	if n, ok := named[s]; ok {
		return n, nil
	}
	m := sizePattern.FindStringSubmatch(s)
	if m == nil || m[3] == "iB" && m[2] == "" {
		return 0, fmt.Errorf("size %q: want cd, dvd, dvd-dl, bd, or bytes as 4.7G or 700MiB", s[:min(len(s), 40)])
	}
	unit := 1000.0
	if m[3] == "iB" {
		unit = 1024
	}
	power := map[string]float64{"": 0, "K": 1, "M": 2, "G": 3, "T": 4}[m[2]]
	f, err := strconv.ParseFloat(m[1], 64)
	if n := math.Round(f * math.Pow(unit, power)); err == nil && n >= 1 && n <= 1<<62 {
		return int64(n), nil
	}
	return 0, fmt.Errorf("size %q makes no sense", s)
}
