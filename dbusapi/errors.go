package dbusapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/internal/problem"
)

func dbusError(name, format string, args ...any) *dbus.Error {
	return dbus.NewError(name, []any{sayable(fmt.Sprintf(format, args...))})
}

// sendable makes a text one that a bus carries. Names of files and answers of servers can be anything; a bus takes one NUL for
// an attack and ends the connection.
func sendable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}

// maxAnswer bounds the texts of an error: what a caller says wrong is told back, but not all of what there may be of it.
const maxAnswer = 2000

// sayable makes a text one that is fit for an error.
func sayable(s string) string {
	if len(s) > maxAnswer {
		s = s[:maxAnswer] + "…"
	}
	return sendable(s)
}

// Numbers of the original's results that its callers may look for, by public reason.
var resultNumbers = map[endpoint.Reason]int{
	endpoint.ReasonFileAccess: 101, endpoint.ReasonFileNotExists: 108, endpoint.ReasonNoSpace: 110,
	endpoint.ReasonInvalidRequest: 111, endpoint.ReasonInvalidState: 113, endpoint.ReasonChecksum: 115,
	endpoint.ReasonInvalidKey: 117, endpoint.ReasonAccessDenied: 118, endpoint.ReasonTooManyTransfer: 120,
}

// historic turns an error into the only form the original had: one string, "number:message".
func historic(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	text := problem.Of(err).Error()
	number := 201 // the original's number for "aborted"
	for reason, n := range resultNumbers {
		if strings.HasPrefix(text, string(reason)+":") {
			number = n
		}
	}
	return dbusError(errFailed, "%d:%s", number, text)
}

// own turns an error into our own form, which a Client turns back.
func own(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	p := problem.Of(err)
	return dbus.NewError(errOwn, []any{sayable(p.Error()), sayable(p.Safe), sayable(p.Next), sayable(p.Code), int32(p.Exit)})
}

// fromBus turns an error of a call into one for people.
func fromBus(err error) error {
	e, ok := errors.AsType[dbus.Error](err)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !ok: // no answer, so it is the connection that failed
		return goneAway("the service has ended, or its bus has", err)
	}
	text := make([]string, 0, 4)
	exit := int32(problem.Failure)
	for _, v := range e.Body {
		switch v := v.(type) {
		case string:
			text = append(text, v)
		case int32:
			exit = v
		}
	}
	switch {
	case e.Name == errOwn && len(text) == 4:
		return problem.New(text[3], problem.Exit(exit), nil, text[0], text[1], text[2])
	case strings.HasSuffix(e.Name, ".ServiceUnknown"), strings.HasSuffix(e.Name, ".NameHasNoOwner"):
		return noService(err)
	case e.Name == errUnknownObject:
		return problem.New("DS-NO-OPERATION", problem.NotFound, errNoOperation, "not done", "nothing was changed", "`disksyncmgr status` shows what there is")
	case strings.HasSuffix(e.Name, ".NoReply"), strings.HasSuffix(e.Name, ".Disconnected"):
		return goneAway("the service has ended, or its bus has", err)
	case strings.HasSuffix(e.Name, ".AccessDenied"):
		return problem.New("DS-ACCESS-DENIED", problem.NeedsLogin, nil, "the service does not take this from you: "+denied(text), "nothing was changed",
			"do it as root, or as a member of the service's group, which is disksync if nothing else was said; who becomes a member has to log in again")
	}
	if e.Name == errFailed {
		return fmt.Errorf("the service says: %s", strings.Join(text, " "))
	}
	return fmt.Errorf("the service says: %s: %s", e.Name, strings.Join(text, " "))
}

// denied says why a call was refused. What the bus says of its rules is for those who write them.
func denied(text []string) string {
	why := strings.Join(text, " ")
	if strings.HasPrefix(why, "Rejected send message") {
		return "the rules of the bus are against it"
	}
	return why
}

// errNoOperation says that an operation is not there, or no longer.
var errNoOperation = errors.New("there is no such operation")

func goneAway(what string, err error) error {
	return problem.New("DS-SERVICE-GONE", problem.Unreachable, err, what, "what was done is kept",
		"start the service again (`disksyncmgr serve`); what was under way then goes on by itself, and `disksyncmgr status` shows it")
}

// codeNoService is the code of a call that found no service.
const codeNoService = "DS-NO-SERVICE"

func noService(err error) error {
	return problem.New(codeNoService, problem.Unreachable, err, "no disksyncmgr service answers on this bus", "",
		"start it (`disksyncmgr serve`), name the session bus with --session if it is there, or do without it with --standalone")
}
