package layer_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"disksync/image"
	"disksync/layer"
)

// TestSquashIsThePath: on every path of a graph of layers, the layer that is made of the disk at its end leads from each state on the
// way to the very state that the layers lead to one by one, and holds the same bytes.
func TestSquashIsThePath(t *testing.T) {
	squashed := 0
	rapid.Check(t, func(rt *rapid.T) {
		g := drawDisks(rt)
		// Layers from nothing to some disks, and between some.
		var edges []drawnLayer
		for from := range len(g) + 1 {
			for to := range g {
				if from == to+1 || rapid.IntRange(0, 2).Draw(rt, "edge") > 0 {
					continue
				}
				var old drawnDisk
				if from > 0 {
					old = g[from-1]
				}
				if old.state.ID() == g[to].state.ID() {
					continue
				}
				edges = append(edges, drawLayer(t, old, g[to], from-1, to))
			}
		}
		var walk func(at int, path []drawnLayer, states []image.State)
		walk = func(at int, path []drawnLayer, states []image.State) {
			if len(path) > 0 {
				squashed += checkSquash(t, rt, path, states)
			}
			for _, e := range edges {
				if e.from != at || len(path) == 3 {
					continue
				}
				next, err := e.index.Apply(states[len(states)-1])
				if err != nil {
					rt.Fatal(err)
				}
				walk(e.to, append(path[:len(path):len(path)], e), append(states[:len(states):len(states)], next))
			}
		}
		walk(-1, nil, []image.State{{}})
	})
	if squashed < 100 {
		t.Errorf("only %d layers were made", squashed)
	}
}

// drawnDisk is a disk with its state.
type drawnDisk struct {
	content []byte
	state   image.State
}

// drawnLayer is an edge between two disks; from -1 is nothing.
type drawnLayer struct {
	from, to int
	index    *layer.Index
	file     []byte
	disk     drawnDisk
}

func drawDisks(rt *rapid.T) []drawnDisk {
	var out []drawnDisk
	for range rapid.IntRange(1, 4).Draw(rt, "disks") {
		seeds := rapid.SliceOfN(rapid.ByteRange(0, 3), 1, 3).Draw(rt, "seeds")
		d := make([]byte, len(seeds)*image.BlockSize+rapid.IntRange(0, 2).Draw(rt, "sectors")*image.SectorSize)
		for i, s := range seeds {
			d[i*image.BlockSize+int(s)] = s
		}
		st := image.State{Size: int64(len(d)), Blocks: make([]image.Digest, image.BlockCount(int64(len(d))))}
		block := make([]byte, image.BlockSize)
		for i := range st.Blocks {
			clear(block[copy(block, d[i*image.BlockSize:]):])
			st.Blocks[i] = image.SumBlock(block)
		}
		out = append(out, drawnDisk{d, st})
	}
	return out
}

// bytesDisk is a disk in memory.
type bytesDisk struct{ *bytes.Reader }

func drawLayer(t *testing.T, from, to drawnDisk, f, n int) drawnLayer {
	var b bytes.Buffer
	o := layer.EncodeOptions{Level: 1, Workers: 1, FromDisk: bytes.NewReader(from.content)}
	res, err := layer.Encode(t.Context(), &b, from.state, bytesDisk{bytes.NewReader(to.content)}, o)
	if err != nil {
		t.Fatal(err)
	}
	return drawnLayer{f, n, res.Index, b.Bytes(), to}
}

// checkSquash squashes the path from each of its states but the last, and returns how many layers it made.
func checkSquash(t *testing.T, rt *rapid.T, path []drawnLayer, states []image.State) int {
	var sources []layer.Source
	for _, e := range path {
		sources = append(sources, layer.Source{Index: e.index, R: bytes.NewReader(e.file)})
	}
	end := states[len(states)-1]
	n := 0
	for i, from := range states[:len(states)-1] {
		if from.ID() == end.ID() {
			continue
		}
		disk, err := layer.NewReader(sources, new(memScratch))
		if err != nil {
			rt.Fatal(err)
		}
		var b bytes.Buffer
		o := layer.EncodeOptions{Level: 1, Workers: 1}
		if i > 0 {
			old, err := layer.NewReader(sources[:i], new(memScratch))
			if err != nil {
				rt.Fatal(err)
			}
			defer old.Close()
			o.FromDisk = old
		}
		res, err := layer.Encode(t.Context(), &b, from, disk, o)
		disk.Close()
		if err != nil {
			rt.Fatal(err)
		}
		got, err := res.Index.Apply(from)
		if err != nil || got.ID() != end.ID() {
			rt.Fatalf("squashed from state %d: %v, %v", i, got.ID(), err)
		}
		short, err := layer.NewReader(append(sources[:i:i], layer.Source{Index: res.Index, R: bytes.NewReader(b.Bytes())}), new(memScratch))
		if err != nil {
			rt.Fatal(err)
		}
		want := path[len(path)-1].disk.content
		have := make([]byte, len(want))
		if _, err := short.ReadAt(have, 0); err != nil || !bytes.Equal(have, want) {
			rt.Fatalf("squashed from state %d: the content differs, %v", i, err)
		}
		short.Close()
		n++
	}
	return n
}
