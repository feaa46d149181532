package endpoint

import (
	"errors"

	"disksync/api"
	"disksync/internal/problem"
	"disksync/layer"
	"disksync/syncclient"
)

// State is the state of an operation, a disk or a layer, in the original's words.
type State string

// The states.
const (
	Stopped        State = "stopped"
	InProgress     State = "inprogress"
	NetworkStalled State = "network-stalled"
	AdmctlStalled  State = "admctl-stalled"
	Paused         State = "paused"
	Finished       State = "finished"
	Failed         State = "failed"
	ServerChecksum State = "server-checksum-in-progress"
)

// precedence is the order in which the states of parts make up the state of the whole; "finished" counts only when all are.
var precedence = []State{Failed, InProgress, NetworkStalled, AdmctlStalled, ServerChecksum, Paused, Stopped}

// Aggregate returns the state of a whole from those of its parts. A whole without parts has not begun: it is stopped. (The
// original called it finished.)
func Aggregate(parts []State) State {
	for _, s := range precedence {
		for _, p := range parts {
			if p == s {
				return s
			}
		}
	}
	if len(parts) == 0 {
		return Stopped
	}
	return Finished
}

// Reason is a public failure reason, in the original's words.
type Reason string

// The reasons that this program gives.
const (
	ReasonAccessDenied    Reason = "access-denied"
	ReasonChecksum        Reason = "checksum-mismatch"
	ReasonFileAccess      Reason = "file-access-error"
	ReasonFileNotExists   Reason = "file-not-exists"
	ReasonNoSpace         Reason = "insufficient-space"
	ReasonServerError     Reason = "internal-server-error"
	ReasonInvalidRequest  Reason = "invalid-request"
	ReasonInvalidState    Reason = "invalid-image-state"
	ReasonInvalidKey      Reason = "invalid-key"
	ReasonTooManyTransfer Reason = "too-many-xfers"
	ReasonUnknown         Reason = "unknown"
)

// reasonOf finds the public reason of an error.
func reasonOf(err error) Reason {
	switch syncclient.Code(err) {
	case api.CodeForbidden, api.CodeUnauthorized, api.CodeBadLogin:
		return ReasonAccessDenied
	case api.CodeNotFound:
		return ReasonFileNotExists
	case api.CodeBusy:
		return ReasonTooManyTransfer
	case api.CodeInternal:
		return ReasonServerError
	case api.CodeInvalid:
		return ReasonInvalidRequest
	}
	if errors.Is(err, layer.ErrCorrupt) {
		return ReasonChecksum
	}
	switch p := problem.Of(err); p.Exit {
	case problem.NoSpace:
		return ReasonNoSpace
	case problem.Untrusted:
		return ReasonInvalidKey
	case problem.NeedsLogin:
		return ReasonAccessDenied
	case problem.NotFound:
		return ReasonFileNotExists
	case problem.Damaged:
		return ReasonFileAccess
	case problem.Usage:
		return ReasonInvalidRequest
	}
	return ReasonUnknown
}
