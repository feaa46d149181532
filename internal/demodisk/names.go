package demodisk

import (
	"fmt"
	"strings"
)

const (
	maxStem   = 8   // of a short name
	maxExt    = 3   // of a short name
	maxName   = 200 // of a long name; the format allows 255
	shortRest = "!#$%&'()-0123456789@ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`{}"
)

// names are the names in use in one directory.
//
// FAT gives each long name a short alias that must be unique as well. The library numbers the alias of a long stem
// (ISSUE1~2.GO) but not that of a short one: typedef.elf and typedef.elf4 both become TYPEDEF.ELF, and .gitignore
// becomes an empty name. Since it looks files up by either name, the wrong file would be opened. So a name is only taken
// when its alias is good; otherwise its stem is made long enough to be numbered.
type names map[string]bool

// take returns want, or a name as near to it as can be stored, and marks it as used.
func (n names) take(want string) string {
	want = storable(want)
	stem, ext := split(want)
	name := want
	for i := 2; n.clash(name); i++ {
		name = fmt.Sprintf("%s-%08d%s", stem, i, ext)
	}
	n.use(name)
	return name
}

// use marks a name that is on the disk as used.
func (n names) use(name string) {
	n[strings.ToUpper(name)] = true
	if a, ok := alias(name); ok {
		n[a] = true
	}
}

func (n names) clash(name string) bool {
	a, ok := alias(name)
	return n[strings.ToUpper(name)] || ok && n[a]
}

// alias returns the short name that the library gives to a name; false means that it numbers one.
func alias(name string) (string, bool) {
	stem, ext := split(name)
	short := shortened(stem)
	if len(short) > maxStem {
		return "", false
	}
	ext = strings.TrimPrefix(ext, ".")
	if ext == "" {
		return short, true
	}
	return short + "." + shortened(ext[:min(len(ext), maxExt)]), true
}

// split cuts a name before its last dot.
func split(name string) (stem, ext string) {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i], name[i:]
	}
	return name, ""
}

// shortened maps characters as short names require.
func shortened(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '.':
			return -1
		case strings.ContainsRune(shortRest, r):
			return r
		}
		return '_'
	}, strings.ToUpper(s))
}

// storable returns a name with what FAT and the library cannot store replaced: reserved characters, those beyond ASCII
// (the library counts bytes for characters), the tilde (kept for numbered aliases), and dots at either end.
func storable(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '}' || strings.ContainsRune(`"*/:<>?\|`, r) {
			return '_'
		}
		return r
	}, name[:min(len(name), maxName)])
	if strings.HasPrefix(name, ".") {
		name = "dot" + name
	}
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		name += "_"
	}
	return name
}
