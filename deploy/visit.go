package deploy

import (
	"context"
	"slices"
	"sync"

	"disksync/cache"
	"disksync/image"
	"disksync/layer"
)

// visits are the media that came and went and that a job has not taken notice of yet. It is safe for concurrent use.
type visits struct {
	mu   sync.Mutex
	news []visit
	wake chan struct{} // has room for one
}

// visit is a medium that came, or left for a reason.
type visit struct {
	inv  *cache.Inventory
	left error
}

// Plug adds a medium to the job. While a layer is being installed, what is still wanted of it comes from the medium at once where that
// comes first in the order of preference. It may be called at any time, from any goroutine, once for an Inventory, which is the job's
// from then on until Unplug or the end of Run.
func (j *Job) Plug(inv *cache.Inventory) { j.visits.add(visit{inv: inv}) }

// Unplug takes a medium out of the job and closes it; why is what the outcome says. What it was to give comes from the next source. It
// may be called at any time, from any goroutine.
func (j *Job) Unplug(inv *cache.Inventory, why error) {
	j.visits.add(visit{inv, why})
	inv.Close() // whoever reads from it is told so
}

func (v *visits) add(x visit) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.news = append(v.news, x)
	select {
	case v.channel() <- struct{}{}:
	default:
	}
}

// channel is called with mu held.
func (v *visits) channel() chan struct{} {
	if v.wake == nil {
		v.wake = make(chan struct{}, 1)
	}
	return v.wake
}

// take returns what is new, in order, and the channel that tells when there is more.
func (v *visits) take() ([]visit, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	news := v.news
	v.news = nil
	return news, v.channel()
}

// CloseMedia closes the media of a job that is over.
func (j *Job) CloseMedia() {
	j.settle()
	for _, inv := range j.Media {
		inv.Close()
	}
}

// settle takes notice of media that came and went, between two layers.
func (j *Job) settle() {
	news, _ := j.visits.take()
	for _, v := range news {
		j.accept(v)
	}
}

func (j *Job) accept(v visit) {
	j.media.Lock()
	defer j.media.Unlock()
	if v.left == nil {
		j.Media = append(slices.Clone(j.Media), v.inv)
		return
	}
	j.Media = slices.DeleteFunc(slices.Clone(j.Media), func(inv *cache.Inventory) bool { return inv == v.inv })
}

// receive brings media that come to a board at work, and takes those off it that leave, until the board is done.
func (j *Job) receive(ctx context.Context, b *board, role image.Role, st *Step, dp *DiskPlan) {
	wanted := st.wanted(dp)
	for {
		news, more := j.visits.take()
		for i, v := range news {
			j.accept(v)
			m := v.inv.Medium
			if v.left != nil {
				b.leave(string(m.Kind), m.Place(), v.left)
				continue
			}
			left := slices.ContainsFunc(news[i+1:], func(later visit) bool { return later.inv == v.inv })
			if s := j.newcomer(ctx, v.inv, wanted, role, st); s != nil && !left {
				b.join(s)
			}
		}
		select {
		case <-more:
		case <-b.ended:
			return
		}
	}
}

// newcomer makes a Source of a medium that came while a layer is being installed; nil: it has nothing of it, or everything ends.
func (j *Job) newcomer(ctx context.Context, inv *cache.Inventory, w cache.Wanted, role image.Role, st *Step) Source {
	src := inv.Source(w)
	if src.Len() == 0 {
		return nil
	}
	var s Source = src
	if j.CheckMedia {
		// What is shown is the transfer, which goes on.
		out, err := j.checkMedia(ctx, role, st, []Source{s}, NewTally())
		if err != nil {
			return nil
		}
		s = out[0]
	}
	return j.Tally.timed([]Source{s})[0]
}

// wanted says what a step could use from a medium.
func (st *Step) wanted(dp *DiskPlan) cache.Wanted {
	blocks := map[image.Digest]bool{}
	for i := range st.index.Len() {
		if f := st.index.Frame(i); f.Codec != layer.Zero {
			blocks[f.Digest] = true
		}
	}
	return cache.Wanted{Blocks: blocks, Layers: []*layer.Index{st.index}, Disks: dp.plain}
}
