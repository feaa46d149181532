package main

import (
	"context"
	"slices"
	"strings"
)

// A section is a comparison with a part of the page of its own, which can also be made alone: the rest of the page then stays.
type section struct {
	name    string // among the cases
	title   string
	ours    bool // it needs our Synchronizer
	long    bool // it takes so long that it is made only when it is asked for, or all is
	measure func(b *bench, ctx context.Context) error
}

func sections() []section {
	return []section{
		{name: blocksCase, title: blocksTitle, measure: (*bench).blocks},
		{name: backupsCase, title: backupsTitle, ours: true, measure: (*bench).backups},
		{name: largeCase, title: largeTitle, long: true, measure: (*bench).large},
	}
}

// wants reports whether a section was asked for.
func (o options) wants(s section) bool {
	return slices.Contains(o.cases, s.name) || len(o.cases) == 0 && (o.all || !s.long)
}

// alone returns the section that is all that was asked for.
func (o options) alone() (section, bool) {
	if len(o.cases) != 1 || o.work != "" {
		return section{}, false
	}
	all := sections()
	i := slices.IndexFunc(all, func(s section) bool { return s.name == o.cases[0] })
	if i < 0 {
		return section{}, false
	}
	return all[i], true
}

// measureSections makes the comparisons that were asked for.
func (b *bench) measureSections(ctx context.Context) error {
	for _, s := range sections() {
		if !b.opts.wants(s) {
			continue
		}
		if err := s.measure(b, ctx); err != nil {
			return err
		}
	}
	return nil
}

// replaceSection puts the section of the page text that begins with the title's heading in the place of the one that is there, or before
// the exact commands.
func replaceSection(old, title, section string) string {
	at := strings.Index(old, "## "+title+"\n")
	if at < 0 {
		if at = strings.Index(old, "## Exact commands"); at < 0 {
			at = len(old)
		}
		return old[:at] + section + old[at:]
	}
	end := len(old)
	if n := strings.Index(old[at+3:], "\n## "); n >= 0 {
		end = at + 3 + n + 1
	}
	return old[:at] + section + old[end:]
}
