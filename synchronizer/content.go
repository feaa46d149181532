package synchronizer

import (
	"context"
	"errors"
	"fmt"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// scratchFile is where blocks are unpacked to that others refer to; it loses its name at once.
const scratchFile = layersDir + "/unpacked" + durable.TempSuffix

// content is a disk that stored layers lead to, open for reading at random.
type content struct {
	*layer.Reader
	files []durable.File
}

// Close frees the room that the unpacked blocks take.
func (d *content) Close() {
	if d.Reader != nil {
		d.Reader.Close()
	}
	for _, f := range d.files {
		f.Close()
	}
}

// openPath opens the disk at the end of a path of stored layers.
func (s *Server) openPath(path []image.LayerRef) (*content, error) {
	d := &content{}
	err := s.fillContent(d, path)
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (s *Server) fillContent(d *content, path []image.LayerRef) error {
	var sources []layer.Source
	for _, l := range path {
		x, err := s.index(l.ID.String())
		if err != nil {
			return err
		}
		f, err := s.fsys.Open(layerFile(l.ID.String()))
		if err != nil {
			return err
		}
		d.files = append(d.files, f)
		sources = append(sources, layer.Source{Index: x, R: f})
	}
	scratch, err := s.scratch()
	if err != nil {
		return fmt.Errorf("room to unpack blocks: %w", err)
	}
	d.files = append(d.files, scratch)
	d.Reader, err = layer.NewReader(sources, scratch)
	return err
}

// scratch makes a file without a name.
func (s *Server) scratch() (durable.File, error) {
	s.names.Lock()
	defer s.names.Unlock()
	f, err := s.fsys.Create(scratchFile, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.Remove(s.fsys, scratchFile); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openState opens the disk of a state. It is for layers that refer to it, so that what makes the error is not the caller's fault.
func (s *Server) openState(ctx context.Context, id image.StateID) (*content, error) {
	path, err := s.pathTo(ctx, id, map[image.StateID]bool{})
	if err == nil && path == nil {
		err = fmt.Errorf("no layers lead to state %s", id.Short())
	}
	if err != nil {
		return nil, err
	}
	return s.openPath(path)
}

// pathTo returns stored layers that lead to a state from nothing, nil when none do. Those that tried leads to were looked at.
func (s *Server) pathTo(ctx context.Context, id image.StateID, tried map[image.StateID]bool) ([]image.LayerRef, error) {
	tried[id] = true
	last, err := column(ctx, s.db, "SELECT id FROM layers WHERE to_state = ? AND sealed = '' ORDER BY length, id", id.String())
	if err != nil {
		return nil, err
	}
	for _, text := range last {
		l, err := image.ParseLayerID(text)
		if err != nil {
			return nil, err
		}
		ref, _, err := layerRef(ctx, s.db, l)
		if err != nil {
			return nil, err
		}
		if ref.From.IsZero() {
			return []image.LayerRef{ref}, nil
		}
		if tried[ref.From] {
			continue
		}
		path, err := s.pathTo(ctx, ref.From, tried)
		if err != nil || path != nil {
			return append(path, ref), err
		}
	}
	return nil, nil
}
