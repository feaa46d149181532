package syncclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"disksync/api"
	"disksync/internal/problem"
	"disksync/syncclient"
)

func TestClasses(t *testing.T) {
	code := func(c api.Code) error { return &api.Error{Code: c, Message: "x"} }
	busy := &syncclient.BusyError{Err: &api.Error{Code: api.CodeBusy}, RetryAfter: time.Second}
	lineErr := &syncclient.LineError{Err: io.ErrUnexpectedEOF}
	pin := &syncclient.PinError{}
	tests := []struct {
		err                          error
		temporary, interrupted, busy bool
		exit                         problem.Exit
		code                         string
	}{
		{lineErr, true, true, false, problem.Unreachable, "DS-NET"},
		{&syncclient.LineError{Err: syncclient.ErrStalled}, true, true, false, problem.Unreachable, "DS-NET"},
		{&syncclient.ProtocolError{What: "x"}, true, false, false, problem.Unreachable, "DS-NET-PROTOCOL"},
		{busy, true, true, true, problem.Unreachable, "DS-SERVER-BUSY"},
		{code(api.CodeInternal), true, false, false, problem.Unreachable, "DS-SERVER-FAILED"},
		{pin, false, false, false, problem.Untrusted, "DS-TLS-PIN"},
		{code(api.CodeInvalid), false, false, false, problem.Failure, "DS-SERVER-INVALID"},
		{code(api.CodeUnauthorized), false, false, false, problem.NeedsLogin, "DS-LOGIN-NEEDED"},
		{code(api.CodeBadLogin), false, false, false, problem.NeedsLogin, "DS-LOGIN-REFUSED"},
		{code(api.CodeForbidden), false, false, false, problem.NeedsLogin, "DS-ACCESS-DENIED"},
		{code(api.CodeNotFound), false, false, false, problem.NotFound, "DS-NOT-FOUND"},
		{code(api.CodeConflict), false, false, false, problem.Busy, "DS-CONFLICT"},
		{code(api.CodeTooLarge), false, false, false, problem.Failure, "DS-TOO-LARGE"},
		{code(api.CodeNoSpace), false, false, false, problem.NoSpace, "DS-SERVER-SPACE"},
		{code(api.CodeDamaged), false, false, false, problem.Damaged, "DS-SERVER-DAMAGED"},
		{code("from-the-future"), false, false, false, problem.Failure, "DS-SERVER-FAILED"},
		{errors.New("something else"), false, false, false, problem.Failure, "DS-FAILED"},
		{context.Canceled, false, false, false, problem.Interrupted, "DS-INTERRUPTED"},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%T %v", test.err, test.err), func(t *testing.T) {
			for _, err := range []error{test.err, fmt.Errorf("while at work: %w", test.err)} {
				if got := syncclient.Temporary(err); got != test.temporary {
					t.Errorf("temporary: %v", got)
				}
				if got := syncclient.Interrupted(err); got != test.interrupted {
					t.Errorf("interrupted: %v", got)
				}
				if got := syncclient.Busy(err); got != test.busy {
					t.Errorf("busy: %v", got)
				}
				p := problem.Of(syncclient.Explain(err, "not done", "nothing was changed"))
				if p.Exit != test.exit || p.Code != test.code {
					t.Errorf("explained as %s, exit %d", p.Code, p.Exit)
				}
				if !errors.Is(syncclient.Explain(err, "", ""), test.err) {
					t.Error("the cause is lost")
				}
			}
		})
	}
	if syncclient.Explain(nil, "", "") != nil || syncclient.Temporary(nil) || syncclient.Code(nil) != "" {
		t.Error("no error is one")
	}
	known := problem.New("DS-X", problem.Failure, lineErr, "x", "", "")
	if syncclient.Explain(known, "y", "") != error(known) {
		t.Error("explained twice")
	}
}

func TestBackoff(t *testing.T) {
	const first, longest = 500 * time.Millisecond, 2 * time.Minute
	var b syncclient.Backoff
	for round := range 2 {
		most := first
		for n := range 100 {
			if p := b.Next(nil); p < most/2 || p > most {
				t.Fatalf("round %d, pause %d: %v, want %v to %v", round, n, p, most/2, most)
			}
			most = min(2*most, longest)
		}
		b.Reset()
	}
	busy := fmt.Errorf("x: %w", &syncclient.BusyError{Err: &api.Error{}, RetryAfter: time.Hour})
	if p := b.Next(busy); p != time.Hour {
		t.Errorf("the server asked for an hour, the pause is %v", p)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := b.Wait(ctx, busy); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

// TestPausesDiffer: a fleet that lost its line together does not come back together.
func TestPausesDiffer(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		var b syncclient.Backoff
		seen[b.Next(nil)] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different pauses of 100", len(seen))
	}
}
