package api

// Code is the kind of an error, stable across releases.
type Code string

// The codes.
const (
	CodeInvalid      Code = "invalid-request"    // the request does not make sense; sending it again will not help
	CodeUnauthorized Code = "login-required"     // no valid token
	CodeBadLogin     Code = "login-refused"      // user and password do not fit, or the user is not known
	CodeForbidden    Code = "access-denied"      // known, but not allowed
	CodeNotFound     Code = "not-found"          // or not to be seen by this caller
	CodeConflict     Code = "conflict"           // the state of things has changed, look again
	CodeTooLarge     Code = "too-large"          // over a limit
	CodeNoSpace      Code = "insufficient-space" // the Synchronizer's disk is full
	CodeBusy         Code = "busy"               // too many at once; RetryAfter says when to come again
	CodeDamaged      Code = "damaged"            // what was uploaded is not what it says
	CodeInternal     Code = "internal-error"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`           // for people: what happened and what to do
	Offset  int64  `json:"offset,omitempty"`  // CodeConflict of an upload: where to go on
	Waiting int    `json:"waiting,omitempty"` // CodeBusy: the place in the queue, from 1
}

// Error implements error.
func (e *Error) Error() string { return e.Message }
