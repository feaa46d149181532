package deploy_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"disksync/deploy"
	"disksync/image"
)

// event is something that happens to a board when a source has given so many blocks.
type event struct {
	of   *source
	at   int
	join *source
	// leave is the name of the one that leaves.
	leave string
}

var errPulled = errors.New("pulled out")

// part returns a source of some of the blocks: those whose place in the layer keep says.
func part(kind, name string, v version, keep func(block int) bool) *source {
	s := newSource(kind, v.layers...)
	s.name = name
	for d, f := range s.frames {
		if !keep(f.Block) {
			delete(s.frames, d)
		}
	}
	return s
}

func every(int) bool { return true }

// TestSourcesComeAndGo: a source that joins gets what is still wanted of what it has and comes from sources behind it, and nothing else;
// one that leaves gives its blocks back. Each block is asked for once, unless it was bad.
func TestSourcesComeAndGo(t *testing.T) {
	const n = 12
	v := oneLayer(t, n)
	low := func(block int) bool { return block < n/2 }
	for _, c := range []struct {
		name  string
		build func() (sources []*source, events []event)
		want  []deploy.SourceReport // without names and bytes
	}{
		{"a stick joins", func() ([]*source, []event) {
			net, usb := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, every)
			return []*source{net}, []event{{of: net, at: 3, join: usb}}
		}, []deploy.SourceReport{{Kind: deploy.Network, Blocks: 3}, {Kind: deploy.USB, Blocks: n - 3}}},
		{"a stick with one half joins", func() ([]*source, []event) {
			net, usb := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, low)
			return []*source{net}, []event{{of: net, at: 1, join: usb}}
		}, []deploy.SourceReport{{Kind: deploy.Network, Blocks: n / 2}, {Kind: deploy.USB, Blocks: n / 2}}},
		{"a stick joins and is pulled out", func() ([]*source, []event) {
			net, usb := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, every)
			return []*source{net}, []event{{of: net, at: 2, join: usb}, {of: usb, at: 4, leave: "usb"}}
		}, []deploy.SourceReport{{Kind: deploy.Network, Blocks: n - 4}, {Kind: deploy.USB, Blocks: 4, GivenUp: "pulled out"}}},
		{"another with the same name comes in its place", func() ([]*source, []event) {
			net, usb, again := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, every), part(deploy.USB, "usb", v, every)
			return []*source{usb, net}, []event{{of: usb, at: 4, leave: "usb", join: again}}
		}, []deploy.SourceReport{{Kind: deploy.USB, Blocks: n, GivenUp: "pulled out"}}},
		{"a second stick takes nothing from the first", func() ([]*source, []event) {
			net, usb, second := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, low), part(deploy.USB, "usb2", v, low)
			return []*source{usb, net}, []event{{of: usb, at: 1, join: second}}
		}, []deploy.SourceReport{{Kind: deploy.USB, Blocks: n / 2}, {Kind: deploy.Network, Blocks: n / 2}}},
		{"a stick comes before a disc", func() ([]*source, []event) {
			disc, usb := part(deploy.DVD, "disc", v, every), part(deploy.USB, "usb", v, every)
			return []*source{disc, part(deploy.Network, "net", v, every)}, []event{{of: disc, at: 5, join: usb}}
		}, []deploy.SourceReport{{Kind: deploy.DVD, Blocks: 5}, {Kind: deploy.USB, Blocks: n - 5}}},
		{"what nobody had is on the stick", func() ([]*source, []event) {
			disc, usb := part(deploy.DVD, "disc", v, low), part(deploy.USB, "usb", v, func(b int) bool { return !low(b) })
			return []*source{disc}, []event{{of: disc, at: 2, join: usb}}
		}, []deploy.SourceReport{{Kind: deploy.DVD, Blocks: n / 2}, {Kind: deploy.USB, Blocks: n / 2}}},
		{"a bad stick joins", func() ([]*source, []event) {
			net, usb := part(deploy.Network, "net", v, every), part(deploy.USB, "usb", v, every)
			usb.each = on([]int{1, 3}, corrupt)
			return []*source{net}, []event{{of: net, at: 6, join: usb}}
		}, []deploy.SourceReport{{Kind: deploy.Network, Blocks: 8}, {Kind: deploy.USB, Blocks: 4, Bad: 2}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, events := c.build()
				play := newPlay(events)
				var sources []deploy.Source
				for _, s := range first {
					sources = append(sources, s)
				}
				fsys := newFS()
				got, err := openStore(t, fsys).InstallWith(t.Context(), v.layers[0].Index, sources, deploy.NewTally(), play.visit)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(deploy.SourceReport{}, "Name", "Bytes")); diff != "" {
					t.Error(diff)
				}
				for _, e := range events {
					for d, k := range e.of.asked {
						if k > 1 {
							t.Errorf("block %s was asked for %d times", d.Short(), k)
						}
					}
				}
				if err := sameContent(fsys, image.VHDUUID(v.state.ID()), v.disk); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// play makes events happen on a board.
type play struct {
	events []event
	board  deploy.Board
	ready  chan struct{}
}

func newPlay(events []event) *play {
	p := &play{events: events, ready: make(chan struct{})}
	for _, e := range events {
		for _, s := range []*source{e.of, e.join} {
			if s != nil {
				s.after = func(n int) error { return p.given(s, n) }
			}
		}
	}
	return p
}

// visit is called with the board when the sources begin.
func (p *play) visit(b deploy.Board) {
	p.board = b
	close(p.ready)
}

func (p *play) given(s *source, n int) error {
	<-p.ready
	for _, e := range p.events {
		if e.of != s || e.at != n {
			continue
		}
		if e.leave != "" {
			p.board.Leave(s.kind, e.leave, errPulled)
		}
		if e.join != nil {
			p.board.Join(e.join)
		}
	}
	return nil
}
