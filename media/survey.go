package media

import (
	"io"
	"strings"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// held is a file of ours on a medium.
type held struct {
	name     string
	layer    image.LayerID // zeros: an unfinished layer file, which does not say
	full     bool          // the layer starts from nothing
	first, n int           // the frames of a piece
	key      image.KeyID   // of a sealed piece
	manifest *image.Manifest
}

// maxSurvey bounds how many names of a folder are looked at.
const maxSurvey = 10000

// survey finds the files of ours in the folder of a medium, whatever they are called; sealed ones as far as keys has their key, and
// manifests as far as key signed them. What cannot be read is passed over.
func survey(fsys durable.FS, keys []image.MediaKey, key image.PublicKey) ([]held, error) {
	entries, err := fsys.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var out []held
	for _, e := range entries[:min(len(entries), maxSurvey)] {
		if !e.Type().IsRegular() {
			continue
		}
		if h, ok := lookAt(fsys, e.Name(), keys, key); ok {
			out = append(out, h)
		}
	}
	return out, nil
}

func lookAt(fsys durable.FS, name string, keys []image.MediaKey, key image.PublicKey) (held, bool) {
	h := held{name: name}
	if strings.HasSuffix(name, manifestSuffix) {
		env, err := durable.ReadFile(fsys, name, image.MaxEnvelopeSize)
		if err != nil {
			return h, false
		}
		v, err := image.VerifyManifest(env, key)
		h.manifest = v.Manifest()
		return h, err == nil
	}
	in, err := fsys.Open(name)
	if err != nil {
		return h, false
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return h, false
	}
	var head [layer.PieceHeaderSize]byte
	n, _ := in.ReadAt(head[:], 0)
	if !layer.IsPiece(head[:n]) && !layer.IsHeader(head[:n]) {
		return h, false
	}
	if p, err := layer.ParsePiece(head[:n], size); err == nil {
		h.first, h.n, h.key = p.First, p.N, p.Key
	}
	form, err := layer.ReadHolding(io.NewSectionReader(in, 0, size), size, keys...)
	if err != nil {
		return h, strings.HasSuffix(name, durable.TempSuffix)
	}
	h.layer, h.full = form.Index().ID(), form.Index().From().IsZero()
	return h, true
}

// is reports whether a file is the one that is to be written.
func (h held) is(o *output) bool {
	key := image.KeyID{}
	if o.key != nil {
		key = o.key.ID()
	}
	return h.layer == o.x.ID() && h.key == key && h.n == o.n && (o.n == 0 || h.first == o.first)
}
