package xec

// option is one option the command line knows.
type option struct {
	name  string // long form, without the dashes
	short string // short form, without the dash; "" if there is none
	words int    // how many words follow it
}

// knownOptions lists all options; the order is that of the usage text.
func knownOptions() []option {
	return []option{
		{name: "help", short: "h"},
		{name: "query", short: "q"},
		{name: "session"},
		{name: "list-interfaces"},
		{name: "list-methods"},
		{name: "list-properties"},
		{name: "service", short: "s", words: 1},
		{name: "object", short: "o", words: 1},
		{name: "interface", short: "i", words: 1},
		{name: "get", short: "g", words: 1},
		{name: "set", short: "x", words: 2},
		{name: "target-domid", short: "t", words: 1},
	}
}

// givenOptions maps the long name of each option found to the words given with it.
type givenOptions map[string][]string

func (g givenOptions) has(name string) bool {
	_, ok := g[name]
	return ok
}

// word returns the one word given with an option, or otherwise if the option
// was not given.
func (g givenOptions) word(name, otherwise string) string {
	if words, ok := g[name]; ok && len(words) == 1 {
		return words[0]
	}
	return otherwise
}

// splitOptions takes the options off the front of args and returns them and the
// rest.
//
// The grammar is older than the usual conventions and differs from all of them,
// which is why no flag library can read it: an option is matched as a whole word
// (no --opt=value, no -qs, no closing --), the first word that is no option ends
// the options, whatever follows an option is its word even if it looks like an
// option, and of an option given twice the first counts. An option that lacks a
// word is dropped together with the rest of the line, so that "xec -g"
// introspects.
func splitOptions(args []string) (givenOptions, []string) {
	given := givenOptions{}
	for len(args) > 0 {
		opt, ok := findOption(args[0])
		if !ok {
			return given, args
		}
		args = args[1:]
		if len(args) < opt.words {
			return given, nil
		}
		if !given.has(opt.name) {
			given[opt.name] = args[:opt.words]
		}
		args = args[opt.words:]
	}
	return given, nil
}

// findOption returns the option that word names.
func findOption(word string) (option, bool) {
	for _, opt := range knownOptions() {
		if word == "--"+opt.name || (opt.short != "" && word == "-"+opt.short) {
			return opt, true
		}
	}
	return option{}, false
}
