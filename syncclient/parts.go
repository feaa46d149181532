package syncclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"disksync/image"
)

const (
	// partsBuffer is also the longest line that may stand between two parts.
	partsBuffer = 16 << 10
	// maxPartHeader bounds what stands between two parts, in bytes.
	maxPartHeader = 4 << 10
	maxBoundary   = 70 // RFC 2046
)

// parts reads an answer with several ranges (multipart/byteranges, RFC 9110) and gives their bytes one behind the other. It takes
// only what was asked for, in that order: each part must say that it is the next one.
type parts struct {
	r        *bufio.Reader
	boundary string // with the dashes before it
	ref      image.LayerRef
	coming   []Span // behind the present one
	left     int64  // of the present one
}

// newParts returns the parts of an answer whose body is r.
func newParts(resp *http.Response, r io.Reader, ref image.LayerRef, spans []Span) (*parts, error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	b := params["boundary"]
	if err != nil || kind != "multipart/byteranges" || b == "" || len(b) > maxBoundary {
		return nil, &ProtocolError{kindOf(resp) + " in place of several ranges"}
	}
	return &parts{r: bufio.NewReaderSize(r, partsBuffer), boundary: "--" + b, ref: ref, coming: spans}, nil
}

// Read implements io.Reader.
func (p *parts) Read(b []byte) (int, error) {
	if p.left == 0 {
		if len(p.coming) == 0 {
			return 0, p.end()
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n, err := p.r.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the lines before the next part.
func (p *parts) next() error {
	s := p.coming[0]
	room := maxPartHeader
	begun, said := false, false
	for {
		line, err := p.line(&room)
		if err != nil {
			return err
		}
		switch name, value, header := strings.Cut(line, ":"); {
		case line == p.boundary && !begun:
			begun = true
		case line == "" && !begun: // the end of the line that the part before ends in, or nothing before the first
		case !begun:
			return &ProtocolError{fmt.Sprintf("%q in place of the next range", line[:min(len(line), 80)])}
		case line == "" && !said:
			return &ProtocolError{"a range that does not say which it is"}
		case line == "":
			p.coming, p.left = p.coming[1:], s.Length
			return nil
		case header && strings.EqualFold(name, "Content-Range"):
			if got, want := strings.TrimSpace(value), contentRange(p.ref, s); said || got != want {
				return &ProtocolError{fmt.Sprintf("range %q in place of %q", got[:min(len(got), 80)], want)}
			}
			said = true
		}
	}
}

// line reads a line, which ends in CRLF, and takes it from the room that is left.
func (p *parts) line(room *int) (string, error) {
	b, err := p.r.ReadSlice('\n')
	switch *room -= len(b); {
	case errors.Is(err, bufio.ErrBufferFull) || *room < 0:
		return "", &ProtocolError{"too much between two ranges"}
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	b, ok := bytes.CutSuffix(b, []byte("\r\n"))
	if !ok {
		return "", &ProtocolError{"lines between ranges that end in LF alone"}
	}
	return string(b), nil
}

// end reads what is behind the last part, so that the connection can be used again. Nothing there is believed or wanted; it is
// only not to be more than it should.
func (p *parts) end() error {
	n, err := io.CopyN(io.Discard, p.r, maxPartHeader)
	if err == nil || n == maxPartHeader {
		return &ProtocolError{"more than the ranges that were asked for"}
	}
	return err
}
