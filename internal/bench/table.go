package main

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// A table is one comparison.
type table struct {
	title    string
	about    []string // sentences before it
	kind     kind
	rows     []*row
	grid     []string // lines of a table of another kind
	after    []string // sentences behind it
	commands []string
}

// kind is what a table shows.
type kind int

// The kinds.
const (
	noTable   kind = iota
	publishes      // making what is published
	updates        // bringing a version to a machine that has another
	deploys        // bringing a version to a machine that has nothing
)

// A row is what one program did.
type row struct {
	name   string
	ours   bool
	partly bool // it does less than an update: it is left out of the comparison of times
	floor  bool // it does a part of a deployment
	failed string
	runs   []result
}

// A result is what one run of a row took.
type result struct {
	prepare sample // on the server's side, once for all clients
	update  sample // on the client's side
	fetched int64  // bytes over the line, or of the file that has to be carried
	stored  int64  // bytes that the server keeps for this version
}

// table adds a table and makes it the one that commands belong to.
func (b *bench) table(k kind, title string, about ...string) *table {
	for _, t := range b.tables {
		if t.title == title {
			b.section = t
			return t
		}
	}
	t := &table{title: title, kind: k, about: about}
	b.tables = append(b.tables, t)
	b.section = t
	return t
}

// row returns the row of that name.
func (t *table) row(name string) *row {
	for _, r := range t.rows {
		if r.name == name {
			return r
		}
	}
	r := &row{name: name}
	t.rows = append(t.rows, r)
	return r
}

// ours returns the row of this project with that name.
func (t *table) ours(name string) *row {
	r := t.row(name)
	r.ours = true
	return r
}

func (r *row) add(x result) { r.runs = append(r.runs, x) }

// fail notes why another program has no figures. That it was too slow is one, and not worth a second try.
func (r *row) fail(err error) {
	if slow, ok := errors.AsType[tooLong](err); ok {
		err = slow
	}
	r.failed = err.Error()
}

// median returns the middle of what the runs took, of an even number the lower of the two; 0 without runs.
func median[T cmp.Ordered](runs []result, of func(result) T) T {
	var v []T
	for _, r := range runs {
		v = append(v, of(r))
	}
	if len(v) == 0 {
		var none T
		return none
	}
	slices.Sort(v)
	return v[(len(v)-1)/2]
}

func (r *row) fetched() int64 { return median(r.runs, func(x result) int64 { return x.fetched }) }
func (r *row) wall() time.Duration {
	return median(r.runs, func(x result) time.Duration { return x.update.wall })
}

// best returns the row with the least of something, of those that count and have it; nil when there is none.
func best[T cmp.Ordered](rows []*row, counts func(*row) bool, of func(*row) T) *row {
	var none T
	var out *row
	for _, r := range rows {
		if r.failed == "" && counts(r) && of(r) > none && (out == nil || of(r) < of(out)) {
			out = r
		}
	}
	return out
}

// plus adds what a second command of the same step took.
func (s sample) plus(o sample) sample {
	s.wall, s.cpu, s.serverCPU, s.wire = s.wall+o.wall, s.cpu+o.cpu, s.serverCPU+o.serverCPU, s.wire+o.wire
	s.peak, s.serverPeak = max(s.peak, o.peak), max(s.serverPeak, o.serverPeak)
	return s
}
