package synchronizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"disksync/api"
	"disksync/image"
)

// call is one request and its answer.
type call struct {
	*http.Request
	w        http.ResponseWriter
	who      caller
	answered bool
	subject  string // what it was about, for the audit log
}

// caller is who sent a request.
type caller struct {
	name   string
	admin  bool
	device string
	token  []byte // its hash
}

// statuses maps codes to HTTP.
var statuses = map[api.Code]int{
	api.CodeInvalid: http.StatusBadRequest, api.CodeUnauthorized: http.StatusUnauthorized,
	api.CodeBadLogin: http.StatusForbidden, api.CodeForbidden: http.StatusForbidden,
	api.CodeNotFound: http.StatusNotFound, api.CodeConflict: http.StatusConflict,
	api.CodeTooLarge: http.StatusRequestEntityTooLarge, api.CodeNoSpace: http.StatusInsufficientStorage,
	api.CodeBusy: http.StatusServiceUnavailable, api.CodeDamaged: http.StatusUnprocessableEntity,
	api.CodeInternal: http.StatusInternalServerError,
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf(format, args...)}
}

// wireError turns any error into one that may be shown. What is not meant for callers stays in the log.
func wireError(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &api.Error{Code: api.CodeNoSpace, Message: "the Synchronizer's disk is full; nothing that was there is lost"}
	case errors.Is(err, fs.ErrNotExist):
		return &api.Error{Code: api.CodeNotFound, Message: "not found"}
	}
	return &api.Error{Code: api.CodeInternal, Message: "the Synchronizer could not do this; its log says why"}
}

// finish answers a request that ended in err, and writes the logs.
func (s *Server) finish(c *call, rt route, err error) {
	outcome := "ok"
	if err != nil {
		e := wireError(err)
		outcome = string(e.Code)
		attrs := []any{"method", c.Method, "path", c.URL.Path, "user", c.who.name, "from", c.RemoteAddr, "error", err}
		if e.Code == api.CodeInternal {
			s.log.Error("request failed", attrs...)
		} else {
			s.log.Debug("request refused", attrs...)
		}
		if !c.answered {
			c.refuse(e)
		}
	} else if !c.answered {
		c.w.WriteHeader(http.StatusNoContent)
	}
	if rt.audit != "" {
		what := rt.audit
		if c.subject != "" {
			what += " " + c.subject
		}
		s.writeAudit(c, what, outcome)
	}
}

func (c *call) refuse(e *api.Error) {
	h := c.w.Header()
	switch e.Code {
	case api.CodeBusy:
		h.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	case api.CodeUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="synchronizer"`)
	}
	c.send(statuses[e.Code], e)
}

// reply answers with v as JSON.
func (c *call) reply(v any) error {
	c.send(http.StatusOK, v)
	return nil
}

func (c *call) send(status int, v any) {
	c.answered = true
	b, err := json.Marshal(v)
	if err != nil {
		panic("synchronizer: internal error: encode answer: " + err.Error())
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(b) // a caller that has gone needs no answer
}

// decode reads the request's body, one JSON value without anything unknown.
func (c *call) decode(v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, api.MaxJSON))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("a request has at most %d bytes", api.MaxJSON)}
		}
		return invalid("read request: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("request: %v", err)
	}
	if d.More() {
		return invalid("request: something follows the JSON value")
	}
	return nil
}

// imageName returns the path's image name.
func (c *call) imageName() (string, error) {
	name := c.PathValue("image")
	if err := image.CheckName(name); err != nil {
		return "", invalid("%v", err)
	}
	c.subject = name
	return name, nil
}

func (c *call) version() (image.Version, error) {
	v, err := image.ParseVersion(c.PathValue("version"))
	if err != nil {
		return 0, invalid("%v", err)
	}
	return v, nil
}

func (c *call) layer() (image.LayerID, error) {
	id, err := image.ParseLayerID(c.PathValue("layer"))
	if err != nil {
		return id, invalid("%v", err)
	}
	return id, nil
}

// account returns a path element that names a user or group.
func (c *call) account(key string) (string, error) {
	name := c.PathValue(key)
	if err := api.CheckAccount(name); err != nil {
		return "", invalid("%v", err)
	}
	c.subject = name
	return name, nil
}
