// Package problem is how errors reach people: what happened, what is still safe, and what to do next, with a code that stays
// the same across releases and an exit status for scripts.
//
// Where an error is first understood it is wrapped with [New]; everything above passes it on, and the program's last act is
// [Report].
package problem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Exit is a program's exit status.
type Exit int

// The exit statuses of disksyncmgr and synchronizer. They are part of the programs' interface.
const (
	OK          Exit = 0
	Failure     Exit = 1 // anything not listed here
	Usage       Exit = 2 // the command line makes no sense
	NeedsLogin  Exit = 3 // not registered, not logged in, or the login was refused
	Unreachable Exit = 4 // the Synchronizer or the service cannot be reached; what was done is kept
	NoSpace     Exit = 5
	Untrusted   Exit = 6 // a key, a signature or a version is not the one that is trusted
	Damaged     Exit = 7 // data is not what it should be, and no good copy was found
	NotFound    Exit = 8
	Busy        Exit = 9 // another process or operation is in the way
	Interrupted Exit = 130
)

// Problem is an error for people.
type Problem struct {
	Code string `json:"code"` // DS-…, stable
	Exit Exit   `json:"exit"`
	What string `json:"what"`           // what happened
	Safe string `json:"safe,omitempty"` // what is still safe
	Next string `json:"next,omitempty"` // what to do
	err  error
}

// New wraps err, which may be nil, as a Problem.
func New(code string, exit Exit, err error, what, safe, next string) *Problem {
	return &Problem{Code: code, Exit: exit, What: what, Safe: safe, Next: next, err: err}
}

// Error implements error.
func (p *Problem) Error() string {
	if p.err == nil {
		return p.What
	}
	return p.What + ": " + p.err.Error()
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.err }

// Flat returns p with everything in What, so that nothing is lost when it is stored or sent.
func (p *Problem) Flat() *Problem {
	return New(p.Code, p.Exit, nil, p.Error(), p.Safe, p.Next)
}

// Of returns the Problem in err's chain, with what was said around it, or makes one of an error that nobody explained. It
// returns nil for nil.
func Of(err error) *Problem {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		if text := err.Error(); text != p.Error() {
			return New(p.Code, p.Exit, nil, text, p.Safe, p.Next)
		}
		return p
	}
	if errors.Is(err, context.Canceled) {
		return New("DS-INTERRUPTED", Interrupted, nil, "interrupted", "what was done is kept", "run the same command to go on from there")
	}
	return New("DS-FAILED", Failure, nil, err.Error(), "", "")
}

// Report writes err for people, as program's last words, and returns the exit status.
func Report(w io.Writer, program string, err error) Exit {
	p := Of(err)
	if p == nil {
		return OK
	}
	fmt.Fprintf(w, "%s: %s\n", program, Printable(p.Error()))
	for _, line := range []struct{ label, text string }{{"safe", p.Safe}, {"next", p.Next}, {"code", p.Code}} {
		if line.text != "" {
			fmt.Fprintf(w, "  %s: %s\n", line.label, Printable(line.text))
		}
	}
	return p.Exit
}

// Printable returns s as one line that cannot steer a terminal: names on media and answers of servers get into what people
// read. Lines are joined; whatever else is not to be seen becomes a question mark.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ReplaceAll(strings.TrimRight(s, "\n "), "\n", "; "))
}
