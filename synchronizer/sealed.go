package synchronizer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"disksync/agefile"
	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// A sealed layer is an age file that nobody here can open. It is named by the SHA-256 of its bytes, and compared with it. Which states it
// leads from and to, and who can open it, is what its user says; whoever restores it finds out.

func (l *storedLayer) equal(o *storedLayer) bool {
	if l == nil || o == nil {
		return l == o
	}
	return l.From == o.From && l.To == o.To && l.size == o.size && slices.Equal(l.Sealed, o.Sealed)
}

// sealedUpload reads what a request to begin an upload says of a sealed layer; nil when it is for a layer file.
func (c *call) sealedUpload(id image.LayerID, length int64) (*storedLayer, error) {
	q := c.URL.Query()
	if q.Get("sealed") == "" {
		return nil, nil
	}
	l := &storedLayer{LayerRef: image.LayerRef{ID: id, Length: length, Sealed: strings.Split(q.Get("sealed"), ".")}}
	err := image.CheckSealed(l.Sealed)
	for key, to := range map[string]*image.StateID{"from": &l.From, "to": &l.To} {
		if err == nil && (key == "to" || q.Get(key) != "") {
			*to, err = image.ParseStateID(q.Get(key))
		}
	}
	if err == nil {
		l.size, err = strconv.ParseInt(q.Get("size"), 10, 64)
	}
	if err == nil && (!image.ValidSize(l.size) || l.To.IsZero() || l.From == l.To) {
		err = fmt.Errorf("a layer from %s to %s, a disk of %d bytes", l.From.Short(), l.To.Short(), l.size)
	}
	if err != nil {
		return nil, invalid("sealed, from, to or size: %v", err)
	}
	return l, nil
}

// mayStartSealed returns an error unless the caller may start a sealed layer where it does, which is found out before it is sent.
func (s *Server) mayStartSealed(c *call, l *storedLayer) error {
	if l.From.IsZero() {
		return nil
	}
	p := &sealing{Server: s, tx: s.db, line: line{user: c.who.name}, admin: c.who.admin, own: map[image.LayerID]bool{}}
	_, err := p.base(c.Context(), l.From, under(l.Sealed))
	if isNotFound(err) {
		err = conflict("state %s is not here, or not all of the recipients can read what leads there; start from elsewhere", l.From.Short())
	}
	return err
}

// under returns what says of a path whether a layer for these recipients may follow it: everything on it must be readable by all of them.
// What is not sealed has to be readable here as well.
func under(recipients []string) func([]image.LayerRef) bool {
	return func(path []image.LayerRef) bool {
		for _, l := range path {
			if len(l.Sealed) > 0 && (len(recipients) == 0 || !includes(l.Sealed, recipients)) {
				return false
			}
		}
		return true
	}
}

// sealedFor returns the recipients that can read all that is sealed on a path.
func sealedFor(path []image.LayerRef) (out []string) {
	for _, l := range path {
		switch {
		case len(l.Sealed) == 0:
		case out == nil:
			out = slices.Clone(l.Sealed)
		default:
			out = slices.DeleteFunc(out, func(r string) bool { return !slices.Contains(l.Sealed, r) })
		}
	}
	return out
}

func anyPath([]image.LayerRef) bool { return true }

// includes reports whether all of some recipients are among others.
func includes(all, some []string) bool {
	return !slices.ContainsFunc(some, func(r string) bool { return !slices.Contains(all, r) })
}

// asPolicy returns an error when a layer is not sealed as the policy of the image wants it.
func (p *sealing) asPolicy(ctx context.Context, l image.LayerRef) error {
	b, err := backupPolicyOf(ctx, p.tx, p.line)
	if err != nil || b == nil {
		return err
	}
	switch sealed := len(l.Sealed) > 0; {
	case !sealed && b.Encrypt:
		return &api.Error{Code: api.CodeForbidden, Message: "backups of VMs of this image have to be encrypted, and this one is not"}
	case sealed && !includes(l.Sealed, b.Recipients):
		return &api.Error{Code: api.CodeForbidden, Message: "backups of VMs of this image have to be readable by recipients that this one is not encrypted for"}
	}
	return nil
}

// starts answers which states sealed layers may start from.
func (s *Server) starts(ctx context.Context, q querier, l line, admin bool, in api.NewBackup) ([]api.Start, error) {
	if len(in.Starts) == 0 {
		return nil, nil
	}
	newest, err := s.points(ctx, q, l.id, 1)
	if err != nil {
		return nil, err
	}
	var out []api.Start
	for _, id := range in.Starts {
		p := &sealing{Server: s, tx: q, line: l, admin: admin, newest: newest, own: map[image.LayerID]bool{}}
		path, err := p.base(ctx, id, under(in.Sealed))
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if ok, err := sound(ctx, q, path); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		st := api.Start{State: id}
		for _, ref := range path {
			if p.own[ref.ID] {
				st.Layers, st.Bytes = st.Layers+1, st.Bytes+ref.Length
			}
		}
		out = append(out, st)
	}
	return out, nil
}

// sound reports whether nothing is known to be wrong with the layers of a path.
func sound(ctx context.Context, q querier, path []image.LayerRef) (bool, error) {
	for _, l := range path {
		bad, err := column(ctx, q, "SELECT damaged FROM checks WHERE layer = ? AND damaged <> ''", l.ID.String())
		if err != nil || len(bad) > 0 {
			return false, err
		}
	}
	return true, nil
}

// storeSealed compares what arrived with its name, and enters it.
func (s *Server) storeSealed(ctx context.Context, k uploadKey, u *upload, f durable.File) error {
	err := compareSealed(ctx, f, k.layer, u.length, func(n int64) {
		s.mu.Lock()
		u.done += n
		s.mu.Unlock()
	})
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case errors.Is(err, layer.ErrCorrupt):
		return damaged("%v", err)
	case err != nil:
		return err
	}
	return s.nameUpload(ctx, k, *u.sealed)
}

// compareSealed reads size bytes, and compares their SHA-256 with the name of a sealed layer. progress is told what was read.
func compareSealed(ctx context.Context, r io.ReaderAt, id image.LayerID, size int64, progress func(n int64)) error {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size && ctx.Err() == nil; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-at)]
		if n, err := r.ReadAt(buf, at); n < len(buf) {
			return fmt.Errorf("read %d bytes at %d: %w", len(buf), at, err)
		}
		if at == 0 && !bytes.HasPrefix(buf, []byte(agefile.Intro)) {
			return fmt.Errorf("%w: it is no age file", layer.ErrCorrupt)
		}
		h.Write(buf)
		progress(int64(len(buf)))
	}
	if got := image.LayerID(h.Sum(nil)); ctx.Err() == nil && got != id {
		return fmt.Errorf("%w: its SHA-256 is %s, not %s", layer.ErrCorrupt, got, id)
	}
	return ctx.Err()
}
