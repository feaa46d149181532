package deploy

import (
	"context"

	"disksync/image"
	"disksync/layer"
)

// Install installs one layer from any sources.
func (s *Store) Install(ctx context.Context, x *layer.Index, sources []Source, t *Tally) ([]SourceReport, error) {
	from, err := s.State(x.From())
	if err != nil {
		return nil, err
	}
	done, err := s.parts.start(ctx, image.VHDUUID(x.To()))
	if err != nil {
		return nil, err
	}
	defer done()
	in, err := s.install(ctx, x, from, image.System, sources, t)
	out := &Outcome{}
	if in != nil {
		in.report(out, map[string]int{})
	}
	return out.Sources, err
}

// Counts returns what only receipts show.
func (t *Tally) Counts() (verified, resumed, zero int) { return t.counts() }

// NewLocal returns the source of blocks that are on this machine.
func (s *Store) NewLocal(wanted map[image.Digest]bool) (Source, error) { return s.newLocal(wanted) }
