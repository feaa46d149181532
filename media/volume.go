package media

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"disksync/internal/problem"
	"disksync/layer"
	"disksync/media/disc"
)

// volume is an image of a disc that is to be written: manifests, then layers and pieces.
type volume struct {
	path      string
	manifests []envelope
	outs      []*output
	layout    *disc.Layout
}

// packing puts layers into volumes.
type packing struct {
	Options
	set     content
	volumes []*volume
	cur     *volume
}

// volumes puts layers into as many volumes as it takes, cutting those that have no room in what is left of one.
func volumes(layers []loaded, set content, o Options) ([]*volume, error) {
	p := &packing{Options: o, set: set}
	p.next()
	for _, l := range layers {
		if err := p.add(l); err != nil {
			return nil, err
		}
	}
	for i, v := range p.volumes {
		v.path = o.Image
		label := p.label()
		if len(p.volumes) > 1 {
			ext := filepath.Ext(o.Image)
			v.path = fmt.Sprintf("%s-%d%s", strings.TrimSuffix(o.Image, ext), i+1, ext)
			n := fmt.Sprintf("-%d", i+1)
			label = label[:min(len(label), maxLabel-len(n))] + n
		}
		var err error
		if v.layout, err = v.plan(label); err != nil {
			return nil, err
		}
	}
	return p.volumes, nil
}

// maxLabel is how long the label of a disc can be.
const maxLabel = 30

// label names the discs for people.
func (p *packing) label() string {
	if p.Encrypt || len(p.set.infos) != 1 {
		return "DISKSYNC"
	}
	name := p.set.infos[0].Name
	return name[:min(len(name), maxLabel)]
}

// next begins another volume.
func (p *packing) next() {
	p.cur = &volume{}
	if !p.Encrypt {
		p.cur.manifests = p.set.manifests
	}
	p.volumes = append(p.volumes, p.cur)
}

// add puts a layer into the volumes.
func (p *packing) add(l loaded) error {
	whole := l.whole()
	if !p.fits(whole) && !p.Split {
		return problem.New("DS-MEDIA-SPACE", problem.NoSpace, nil, fmt.Sprintf("everything does not go onto one disc of %d bytes", p.Size), "nothing was written",
			"give --split to have several, or a larger --size")
	}
	for first, part := 0, 1; ; {
		if first == 0 && p.fits(whole) {
			p.cur.outs = append(p.cur.outs, whole)
			return nil
		}
		n := p.room(l, first, part)
		empty := len(p.cur.outs) == 0
		if n == 0 && empty {
			return errPart
		}
		if n > 0 && (empty || first > 0 || n == l.x.Len()-first || p.worthwhile(l, first, n)) {
			p.cur.outs = append(p.cur.outs, l.piece(first, n, part))
			first += n
			part++
		}
		if first == l.x.Len() {
			return nil
		}
		p.next()
	}
}

// worthwhile reports whether a piece that fills a volume up is more than a hundredth of it: every piece has the whole index.
func (p *packing) worthwhile(l loaded, first, n int) bool {
	return l.piece(first, n, 1).size() > p.Size/100
}

// fits reports whether one file more has room in the present volume.
func (p *packing) fits(o *output) bool {
	if p.Size == 0 {
		return true
	}
	v := *p.cur
	v.outs = append(v.outs[:len(v.outs):len(v.outs)], o)
	l, err := v.plan("L")
	return err == nil && l.Size() <= p.Size
}

// room returns how many frames from number first on have room in the present volume.
func (p *packing) room(l loaded, first, part int) int {
	v := *p.cur
	l0, err := v.plan("L")
	if err != nil {
		return 0
	}
	// The tables take something for one more file: less frames, until it fits.
	n := layer.Fit(l.x, first, p.Size-l0.Size(), l.key != nil)
	for n > 0 && !p.fits(l.piece(first, n, part)) {
		n--
	}
	return n
}

// plan lays the volume out. The same files give the same image.
func (v *volume) plan(label string) (*disc.Layout, error) {
	d := disc.Volume{Label: label, Time: time.Unix(0, 0)}
	h := sha256.New()
	for _, e := range v.manifests {
		d.Files = append(d.Files, disc.File{Name: manifestName(e.Want) + manifestSuffix, Size: int64(len(e.bytes))})
	}
	for _, o := range v.outs {
		d.Files = append(d.Files, disc.File{Name: o.name, Size: o.size()})
		id := o.x.ID()
		h.Write(id[:])
		if o.made.After(d.Time) {
			d.Time = o.made
		}
	}
	for _, f := range d.Files {
		fmt.Fprintf(h, "%s %d\n", f.Name, f.Size)
	}
	d.Set = hex.EncodeToString(h.Sum(nil)[:8])
	return disc.Plan(d)
}

// file returns which file of the layout a layer is.
func (v *volume) file(i int) int { return len(v.manifests) + i }
