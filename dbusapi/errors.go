package dbusapi

import (
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"

	"disksync/endpoint"
	"disksync/internal/problem"
)

func dbusError(name, format string, args ...any) *dbus.Error {
	return dbus.NewError(name, []any{fmt.Sprintf(format, args...)})
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
	return dbus.NewError(errOwn, []any{p.Error(), p.Safe, p.Next, p.Code, int32(p.Exit)})
}

// fromBus turns an error of a call into one for people.
func fromBus(err error) error {
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return err
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
	case strings.HasSuffix(e.Name, ".AccessDenied"):
		return problem.New("DS-ACCESS-DENIED", problem.NeedsLogin, nil, "the service does not take this from you: "+strings.Join(text, " "), "nothing was changed",
			"do it as root, or as a member of the group that the service was started with")
	}
	return fmt.Errorf("the service says: %s: %s", e.Name, strings.Join(text, " "))
}

func noService(err error) error {
	return problem.New("DS-NO-SERVICE", problem.Unreachable, err, "no disksyncmgr service answers on this bus", "",
		"start it (`disksyncmgr serve`), name the session bus with --session if it is there, or do without it with --standalone")
}
