package syncclient

import (
	"errors"

	"disksync/api"
	"disksync/internal/problem"
)

// answers says for each code of the Synchronizer what it means to a person.
var answers = map[api.Code]struct {
	code string
	exit problem.Exit
	next string
}{
	api.CodeInvalid:      {"DS-SERVER-INVALID", problem.Failure, ""},
	api.CodeUnauthorized: {"DS-LOGIN-NEEDED", problem.NeedsLogin, "log in with `login USER`"},
	api.CodeBadLogin:     {"DS-LOGIN-REFUSED", problem.NeedsLogin, "check the user's name and the password"},
	api.CodeForbidden:    {"DS-ACCESS-DENIED", problem.NeedsLogin, "ask the administrator to assign it to you"},
	api.CodeNotFound:     {"DS-NOT-FOUND", problem.NotFound, ""},
	api.CodeConflict:     {"DS-CONFLICT", problem.Busy, "look at the present state and try again"},
	api.CodeTooLarge:     {"DS-TOO-LARGE", problem.Failure, ""},
	api.CodeNoSpace:      {"DS-SERVER-SPACE", problem.NoSpace, "free space on the Synchronizer's machine"},
	api.CodeBusy:         {"DS-SERVER-BUSY", problem.Unreachable, "wait a little and try again"},
	api.CodeDamaged:      {"DS-SERVER-DAMAGED", problem.Damaged, ""},
	api.CodeInternal:     {"DS-SERVER-FAILED", problem.Unreachable, "tell the administrator; the Synchronizer's log says more"},
}

// Explain turns an error of a Client into one for people. safe says what was not touched. An error that is a Problem already,
// or no Client's, stays as it is.
func Explain(err error, what, safe string) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok || err == nil {
		return err
	}
	if pin, ok := errors.AsType[*PinError](err); ok {
		return problem.New("DS-TLS-PIN", problem.Untrusted, pin, what, "nothing was sent to this server; "+safe,
			"do not go on before the administrator has confirmed the new fingerprint; then register again with --replace and --fingerprint")
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		a, known := answers[e.Code]
		if !known {
			a.code, a.exit = "DS-SERVER-FAILED", problem.Failure
		}
		return problem.New(a.code, a.exit, err, what, safe, a.next)
	}
	if _, ok := errors.AsType[*ProtocolError](err); ok {
		return problem.New("DS-NET-PROTOCOL", problem.Unreachable, err, what, safe,
			"check whether a proxy or a login page of the network is in the way, then run the same command again")
	}
	if _, ok := errors.AsType[*LineError](err); ok {
		return problem.New("DS-NET", problem.Unreachable, err, what, safe, "check the network, then run the same command again")
	}
	return err
}
