package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"disksync/internal/problem"
)

func TestReport(t *testing.T) {
	cause := fs.ErrNotExist
	p := problem.New("DS-X", problem.NotFound, cause, "no disk", "all is well", "look elsewhere")
	for _, c := range []struct {
		name string
		err  error
		exit problem.Exit
		want string
	}{
		{"nothing", nil, problem.OK, ""},
		{"problem", p, problem.NotFound, "x: no disk: file does not exist\n  safe: all is well\n  next: look elsewhere\n  code: DS-X\n"},
		{"problem within", fmt.Errorf("system disk: %w", p), problem.NotFound,
			"x: system disk: no disk: file does not exist\n  safe: all is well\n  next: look elsewhere\n  code: DS-X\n"},
		{"problem and more", errors.Join(p, errors.New("and the temporary file stays")), problem.NotFound,
			"x: no disk: file does not exist; and the temporary file stays\n  safe: all is well\n  next: look elsewhere\n  code: DS-X\n"},
		{"bare problem", problem.New("", problem.Failure, nil, "what", "", ""), problem.Failure, "x: what\n"},
		{"any error", errors.New("oops"), problem.Failure, "x: oops\n  code: DS-FAILED\n"},
		{"interrupt", fmt.Errorf("read: %w", context.Canceled), problem.Interrupted,
			"x: interrupted\n  safe: what was done is kept\n  next: run the same command to go on from there\n  code: DS-INTERRUPTED\n"},
		{"hostile words", problem.New("DS-Y", problem.Damaged, errors.New("a\x1b[2J\nb\r\x00\u202e\xff"), "it says\tthis", "s\n", ""), problem.Damaged,
			"x: it says?this: a?[2J; b???\ufffd\n  safe: s\n  code: DS-Y\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			if exit := problem.Report(&out, "x", c.err); exit != c.exit || out.String() != c.want {
				t.Errorf("exit status %d, want %d; printed\n%q, want\n%q", exit, c.exit, out.String(), c.want)
			}
		})
	}
}

func TestChain(t *testing.T) {
	p := problem.New("DS-X", problem.NoSpace, fs.ErrInvalid, "full", "safe", "next")
	if !errors.Is(p, fs.ErrInvalid) || problem.Of(p) != p {
		t.Error("the cause is lost")
	}
	flat := p.Flat()
	if flat.Error() != p.Error() || errors.Is(flat, fs.ErrInvalid) {
		t.Errorf("flat is %+v", flat)
	}
	b, err := json.Marshal(flat)
	const want = `{"code":"DS-X","exit":5,"what":"full: invalid argument","safe":"safe","next":"next"}`
	if err != nil || string(b) != want {
		t.Errorf("%s %v, want %s", b, err, want)
	}
	back := new(problem.Problem)
	if err := json.Unmarshal(b, back); err != nil || *back != *flat {
		t.Errorf("%+v %v", back, err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain, naïve, 漢字": "plain, naïve, 漢字", "  indented": "  indented", "a\nb\n": "a; b", "a\tb\x7f\u0085\u2028": "a?b???", "\xff\xfe": "\ufffd\ufffd",
	} {
		if got := problem.Printable(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
