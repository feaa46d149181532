package synchronizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	w        *patientWriter
	who      caller
	answered bool
	subject  string // what it was about, for the audit log
}

func (s *Server) newCall(w http.ResponseWriter, r *http.Request) *call {
	p := &patientWriter{ResponseWriter: w, rc: http.NewResponseController(w), stall: s.stall}
	// A body that nobody wants is read by the HTTP server itself before it answers. Without a body this deadline would end
	// the request while its answer is being sent.
	if r.Body != nil && r.Body != http.NoBody {
		p.extendRead()
	}
	return &call{Request: r, w: p}
}

// patientWriter gives each write its own time, so that a slow line may take days as long as something moves.
type patientWriter struct {
	http.ResponseWriter
	rc    *http.ResponseController
	stall time.Duration
}

// writePiece is small, so that on a line of 1 KiB/s one still gets through within stallTime.
const writePiece = 64 << 10

func (w *patientWriter) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		w.extend()
		k, err := w.ResponseWriter.Write(p[n:min(len(p), n+writePiece)])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// In-memory connections of tests know no deadlines, hence no errors below.

func (w *patientWriter) extend() { _ = w.rc.SetWriteDeadline(time.Now().Add(w.stall)) }

func (w *patientWriter) extendRead() { _ = w.rc.SetReadDeadline(time.Now().Add(w.stall)) }

// patientBody is the reading counterpart: a caller who sends nothing cannot hold a connection for ever.
type patientBody struct {
	io.Reader
	w *patientWriter
}

func (b patientBody) Read(p []byte) (int, error) {
	b.w.extendRead()
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.w.rc.SetReadDeadline(time.Time{}) // the handler may take its time from here on
	}
	return n, err
}

// body returns the request's body.
func (c *call) body() io.Reader { return patientBody{c.Body, c.w} }

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

func isNotFound(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.CodeNotFound
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
		if e.Code == api.CodeInternal && c.Context().Err() == nil {
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
	// Whoever is not known, and got no further than that, cannot fill the log.
	if rt.audit != "" && (c.who.name != "" || c.subject != "") {
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

// replyList is reply for what may be longer than a client takes.
func (c *call) replyList(v any) error {
	b := encode(v)
	if len(b) > api.MaxList {
		return tooMany("the list has %d bytes, at most %d can be sent; ask for a part of it", len(b), api.MaxList)
	}
	c.sendJSON(http.StatusOK, b)
	return nil
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("synchronizer: internal error: encode answer: " + err.Error())
	}
	return b
}

func (c *call) send(status int, v any) { c.sendJSON(status, encode(v)) }

func (c *call) sendJSON(status int, b []byte) {
	c.answered = true
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(b) // a caller that has gone needs no answer
}

// decode reads the request's body, one JSON value without anything unknown.
func (c *call) decode(v any) error {
	b, err := io.ReadAll(io.LimitReader(c.body(), api.MaxJSON+1))
	if err != nil {
		return invalid("read request: %v", err)
	}
	if len(b) > api.MaxJSON {
		return &api.Error{Code: api.CodeTooLarge, Message: fmt.Sprintf("a request has at most %d bytes", api.MaxJSON)}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid("request: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
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
