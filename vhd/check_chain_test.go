package vhd_test

import (
	"slices"
	"testing"

	"disksync/vhd"
)

// chainFiles returns a chain of three files in memory, leaf first.
func chainFiles(t *testing.T) []*memFile {
	t.Helper()
	base := create(t, vhd.CreateOptions{Size: 1 << 20, UUID: newUUID(1)})
	mid := create(t, vhd.CreateOptions{Size: 1 << 20, UUID: newUUID(2), Parent: &vhd.Parent{UUID: newUUID(1), Path: "a.vhd"}})
	leaf := create(t, vhd.CreateOptions{Size: 1 << 20, UUID: newUUID(3), Parent: &vhd.Parent{UUID: newUUID(2), Path: "b.vhd"}})
	return []*memFile{leaf, mid, base}
}

func TestCheckChain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edit func(files []*memFile) []*memFile
		want [][]vhd.Fault
	}{
		{"good", func(f []*memFile) []*memFile { return f }, [][]vhd.Fault{nil, nil, nil}},
		{"no parent", func(f []*memFile) []*memFile { return f[:2] }, [][]vhd.Fault{{vhd.BadParent}, {vhd.NoParent}}},
		{"one left out", func(f []*memFile) []*memFile { return []*memFile{f[0], f[2]} }, [][]vhd.Fault{{vhd.WrongParent}, nil}},
		{"one too many", func(f []*memFile) []*memFile { return []*memFile{f[0], f[1], f[2], f[2]} },
			[][]vhd.Fault{{vhd.BadParent}, {vhd.BadParent}, {vhd.WrongParent}, nil}},
		{"cycle", func(f []*memFile) []*memFile {
			editHeader(f[1].data, func(h []byte) { copy(h[40:56], f[0].data[68:84]) })
			return f
		}, [][]vhd.Fault{{vhd.BadParent}, {vhd.WrongParent, vhd.Cycle}, nil}},
		{"its own parent", func(f []*memFile) []*memFile {
			editHeader(f[1].data, func(h []byte) { copy(h[40:56], f[1].data[68:84]) })
			return []*memFile{f[1], f[1]}
		}, [][]vhd.Fault{{vhd.Cycle, vhd.BadParent}, {vhd.Cycle, vhd.NoParent}}},
		{"base damaged", func(f []*memFile) []*memFile { setEntry(f[2].data, 0, 0); return f },
			[][]vhd.Fault{{vhd.BadParent}, {vhd.BadParent}, {vhd.BlockInMetadata}}},
		{"base unreadable", func(f []*memFile) []*memFile { f[2].data = make([]byte, 4096); return f },
			[][]vhd.Fault{{vhd.BadParent}, {vhd.BadParent}, {vhd.NotVHD}}},
		{"sizes", func(f []*memFile) []*memFile {
			editFooters(f[2].data, func(b []byte) { b[53] = 8; b[57]-- })
			return f
		}, [][]vhd.Fault{nil, {vhd.SizeDiffers}, {vhd.WrongGeometry}}},
		{"time", func(f []*memFile) []*memFile {
			editHeader(f[0].data, func(h []byte) { h[58] = 9 })
			return f
		}, [][]vhd.Fault{{vhd.ParentChanged}, nil, nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var chain []vhd.ChainFile
			for _, f := range c.edit(chainFiles(t)) {
				chain = append(chain, vhd.ChainFile{R: f, Size: f.size(), Modified: 1000})
			}
			reports, err := vhd.CheckChain(chain, vhd.CheckOptions{})
			if err != nil || len(reports) != len(chain) {
				t.Fatalf("%d reports: %v", len(reports), err)
			}
			for i, rep := range reports {
				var got []vhd.Fault
				for _, e := range rep.Findings {
					got = append(got, e.Fault)
				}
				if !slices.Equal(got, c.want[i]) {
					t.Errorf("member %d: findings %v, want %v", i, rep.Findings, c.want[i])
				}
			}
		})
	}
}

// TestCheckChainLimits: raw parents, chains without an end, and no chain at all.
func TestCheckChainLimits(t *testing.T) {
	t.Parallel()
	child := create(t, vhd.CreateOptions{Size: 1 << 20, UUID: newUUID(1), Parent: &vhd.Parent{Path: "base.raw"}})
	raw := inMemory(make([]byte, 1<<20))
	leaf := vhd.ChainFile{R: child, Size: child.size()}
	reports, err := vhd.CheckChain([]vhd.ChainFile{leaf, {R: raw, Size: raw.size(), Raw: true}}, vhd.CheckOptions{})
	if err != nil || len(reports[0].Findings)+len(reports[1].Findings) > 0 {
		t.Errorf("raw parent: %v, %v, %v", err, reports[0].Findings, reports[1].Findings)
	}
	reports, err = vhd.CheckChain([]vhd.ChainFile{leaf, {R: raw, Size: 1000, Raw: true}}, vhd.CheckOptions{})
	if err != nil || !reports[1].Has(vhd.BadSize) || !reports[0].Has(vhd.BadParent) {
		t.Errorf("odd raw parent: %v, %v, %v", err, reports[0].Findings, reports[1].Findings)
	}
	long := slices.Repeat([]vhd.ChainFile{leaf}, vhd.MaxDepth+5)
	reports, err = vhd.CheckChain(long, vhd.CheckOptions{})
	if err != nil || len(reports) != vhd.MaxDepth || !reports[0].Has(vhd.TooDeep) {
		t.Errorf("long chain: %v, %d reports", err, len(reports))
	}
	if reports, err = vhd.CheckChain(nil, vhd.CheckOptions{}); err != nil || len(reports) != 0 {
		t.Errorf("no chain: %v, %d reports", err, len(reports))
	}
}
