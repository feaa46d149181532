package deploy

import (
	"sync"

	"disksync/image"
)

// supplier is a job as what gives a tower its blocks. It is safe for concurrent use.
type supplier struct {
	job  *Job
	rank int  // the highest is asked first
	runs bool // the job installs what the tower is of, and counts that
	mu   sync.Mutex
	had  map[int][]feed // by site
}

// feed is one source of a supplier.
type feed struct {
	Source
	net *netSource // what it is, when it is the network
}

// feeds returns the sources of the blocks of a tower's site, in the order of preference.
func (p *supplier) feeds(t *tower, i int) ([]feed, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if out, ok := p.had[i]; ok {
		return out, nil
	}
	sources, err := p.job.sources(&t.dp.Steps[i], &t.dp, t.sites[i])
	if err != nil {
		return nil, err
	}
	out := make([]feed, len(sources))
	timed := p.job.Tally.timed(sources)
	for k, s := range sources {
		out[k].Source = timed[k]
		out[k].net, _ = s.(*netSource)
	}
	if p.had == nil {
		p.had = map[int][]feed{}
	}
	p.had[i] = out
	return out, nil
}

// renew has the sources looked for anew, since media came or went.
func (p *supplier) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.had = nil
}

// count counts a block that was brought.
func (p *supplier) count(y *site, d image.Digest, kind string, bytes int64) {
	var work int64
	if p.runs && y.installer() == nil {
		work = y.advance(d)
	}
	p.job.Tally.got(kind, bytes, work, false)
}

// pressing returns the source for who waits for its blocks: it makes way for nobody.
func (s *netSource) pressing() *netSource {
	p := *s
	p.gate = nil
	return &p
}
