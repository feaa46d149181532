package syncclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"disksync/api"
)

// ErrStalled says that a line moved too little for too long (see [Line]).
var ErrStalled = errors.New("the line stands still")

// LineError says that a request did not reach the Synchronizer, or its answer did not reach us.
type LineError struct{ Err error }

// Error implements error.
func (e *LineError) Error() string { return "the line to the Synchronizer failed: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// lineError makes a LineError of a failed exchange, unless our own context ended it or the server has the wrong key.
func lineError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e, ok := errors.AsType[*PinError](err); ok {
		return e
	}
	return &LineError{err}
}

// ProtocolError says that an answer is not one that a Synchronizer gives: something on the way answered in its place, or it
// lies. What was asked for is not there.
type ProtocolError struct{ What string }

// Error implements error.
func (e *ProtocolError) Error() string {
	return "this is not how a Synchronizer answers: " + e.What
}

// BusyError says that the Synchronizer serves as many as it can and when to come again.
type BusyError struct {
	Err        *api.Error
	RetryAfter time.Duration
}

// Error implements error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("%s; it asks to come again in %v", e.Err.Message, e.RetryAfter)
}

// Unwrap returns the answer.
func (e *BusyError) Unwrap() error { return e.Err }

const (
	// maxRetryAfter bounds how long a server can make us wait.
	maxRetryAfter = 10 * time.Minute
	// maxFailures is how often in a row something is tried again without anything having moved.
	maxFailures = 8
)

// Code returns the code of an error that the Synchronizer answered with, else "".
func Code(err error) api.Code {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Code
	}
	return ""
}

// Temporary reports whether trying again later can help: the line failed, the Synchronizer is busy or failed, or something on
// the way answered in its place. A refusal or a wrong key stays as it is.
func Temporary(err error) bool {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Code == api.CodeBusy || e.Code == api.CodeInternal
	}
	if _, ok := errors.AsType[*ProtocolError](err); ok {
		return true
	}
	_, ok := errors.AsType[*LineError](err)
	return ok
}

// Backoff gives the pauses between attempts: longer each time, with chance in them so that a fleet does not come back all
// at once. The zero value begins with half a second; it is not safe for concurrent use.
type Backoff struct {
	n     int
	hurry <-chan struct{} // closed by the first Now since the last pause that one has ended; nil before the first pause
}

const (
	firstPause   = 500 * time.Millisecond
	longestPause = 2 * time.Minute
)

// Wait pauses before the next attempt, at least as long as the server asked for in err. It returns early with ctx's error. Where it waits
// for the line, and for nothing else, the Hurry of ctx ends the pause, and later ones are short again.
func (b *Backoff) Wait(ctx context.Context, err error) error {
	if b.hurry == nil {
		b.hurry = hurryOf(ctx).next()
	}
	var hurry <-chan struct{}
	if _, ok := errors.AsType[*LineError](err); ok {
		hurry = b.hurry
	}
	t := time.NewTimer(b.Next(err))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-hurry:
		b.Reset()
		b.hurry = hurryOf(ctx).next()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Next returns the length of the next pause.
func (b *Backoff) Next(err error) time.Duration {
	pause := min(firstPause<<min(b.n, 16), longestPause)
	b.n++
	pause = pause/2 + rand.N(pause/2+1)
	if busy, ok := errors.AsType[*BusyError](err); ok {
		pause = max(pause, busy.RetryAfter)
	}
	return pause
}

// Reset begins anew, after something worked.
func (b *Backoff) Reset() { b.n = 0 }

// Interrupted reports whether the line itself failed, so that nothing can be said about the server.
func Interrupted(err error) bool {
	_, ok := errors.AsType[*LineError](err)
	return ok || Busy(err)
}

// Busy reports whether the Synchronizer asked to come again later.
func Busy(err error) bool {
	_, ok := errors.AsType[*BusyError](err)
	return ok
}
