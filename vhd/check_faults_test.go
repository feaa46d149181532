package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"disksync/vhd"
)

// faultCase makes one fault in a good disk.
type faultCase struct {
	name string
	edit func(b []byte) []byte
	want []vhd.Fault // all that is worse than a note, and notes only if noted
}

func in(edit func(b []byte)) func(b []byte) []byte {
	return func(b []byte) []byte { edit(b); return b }
}

func footers(edit func(f []byte)) func(b []byte) []byte {
	return in(func(b []byte) { editFooters(b, edit) })
}

func header(edit func(h []byte)) func(b []byte) []byte {
	return in(func(b []byte) { editHeader(b, edit) })
}

var faultCases = []faultCase{
	{"nothing", in(func([]byte) {}), nil},
	{"both footers gone", in(func(b []byte) { clear(b[:512]); clear(b[len(b)-512:]) }), []vhd.Fault{vhd.NotVHD}},
	{"both footers damaged", in(func(b []byte) { b[30]++; b[len(b)-10]++ }), []vhd.Fault{vhd.BadFooter, vhd.BadFooter}},
	{"end footer gone", func(b []byte) []byte { return b[:len(b)-512] }, []vhd.Fault{vhd.EndFooterMissing}},
	{"end footer damaged", in(func(b []byte) { b[len(b)-10]++ }), []vhd.Fault{vhd.EndFooterDamaged}},
	{"copy damaged", in(func(b []byte) { b[100]++ }), []vhd.Fault{vhd.CopyDamaged}},
	{"copy gone", in(func(b []byte) { clear(b[:512]) }), []vhd.Fault{vhd.CopyDamaged}},
	{"copy differs", in(func(b []byte) { b[100]++; sum(b[:512], 64) }), []vhd.Fault{vhd.CopyDiffers}},
	{"both checksums stale", in(func(b []byte) { b[100]++; b[len(b)-412]++ }), []vhd.Fault{vhd.ChecksumStale}},
	{"poisoned", in(func(b []byte) { copy(b[len(b)-512:], "v_poison"); sum(b[len(b)-512:], 64) }), []vhd.Fault{vhd.Poisoned}},
	{"version", footers(func(f []byte) { f[13] = 2 }), []vhd.Fault{vhd.BadVersion}},
	{"old tapdisk", footers(func(f []byte) { copy(f[28:], "tap\x00\x00\x00\x00\x01") }), []vhd.Fault{vhd.BadVersion}},
	{"type", footers(func(f []byte) { f[63] = 6 }), []vhd.Fault{vhd.BadType}},
	{"size odd", footers(func(f []byte) { f[55]++ }), []vhd.Fault{vhd.BadSize}},
	{"size zero", footers(func(f []byte) { clear(f[48:56]) }), []vhd.Fault{vhd.BadSize}},
	{"size negative", footers(func(f []byte) { f[48] = 0x80 }), []vhd.Fault{vhd.BadSize}},
	{"size too large", footers(func(f []byte) { f[49] = 1 }), []vhd.Fault{vhd.BadSize}},
	{"two faults of the footer", footers(func(f []byte) { f[13] = 2; f[55]++ }), []vhd.Fault{vhd.BadVersion, vhd.BadSize}},
	{"no uuid", footers(func(f []byte) { clear(f[68:84]) }), []vhd.Fault{vhd.NilUUID}},
	{"header outside", footers(func(f []byte) { f[20] = 1 }), []vhd.Fault{vhd.BadHeader}},
	{"header gone", in(func(b []byte) { clear(b[512:1536]) }), []vhd.Fault{vhd.BadHeader}},
	{"header checksum", in(func(b []byte) { b[goodHeader+800]++ }), []vhd.Fault{vhd.HeaderChecksum}},
	{"header version", header(func(h []byte) { h[25] = 9 }), []vhd.Fault{vhd.BadVersion}},
	{"header checksum and version", in(func(b []byte) { b[goodHeader+25] = 9 }), []vhd.Fault{vhd.HeaderChecksum, vhd.BadVersion}},
	{"block size zero", header(func(h []byte) { clear(h[32:36]) }), []vhd.Fault{vhd.BadBlockSize}},
	{"block size odd", header(func(h []byte) { h[35]++ }), []vhd.Fault{vhd.BadBlockSize}},
	{"table too small", header(func(h []byte) { h[31]-- }), []vhd.Fault{vhd.BadBAT}},
	{"table outside", header(func(h []byte) { h[20] = 1 }), []vhd.Fault{vhd.BadBAT}},
	{"table not on a sector", header(func(h []byte) { h[23]++ }), []vhd.Fault{vhd.BadBAT}},
	{"table on the header", header(func(h []byte) { h[22] = 4 }), []vhd.Fault{vhd.BadBAT}},
	{"block on the copy", in(func(b []byte) { setEntry(b, 2, 0) }), []vhd.Fault{vhd.BlockInMetadata, vhd.BlocksOverlap}},
	{"block on the header", in(func(b []byte) { setEntry(b, 3, 1) }), []vhd.Fault{vhd.BlockInMetadata, vhd.BlocksOverlap}},
	{"block on the table", in(func(b []byte) { setEntry(b, 3, 3) }), []vhd.Fault{vhd.BlockInMetadata, vhd.BlocksOverlap}},
	{"block past the end", in(func(b []byte) { setEntry(b, 3, 0x7fffffff) }), []vhd.Fault{vhd.BlockPastEnd}},
	{"block on the footer", in(func(b []byte) { setEntry(b, 3, entry(b, 8)+2) }),
		[]vhd.Fault{vhd.BlockPastEnd, vhd.BlocksOverlap}},
	{"same block twice", in(func(b []byte) { setEntry(b, 2, entry(b, 1)) }), []vhd.Fault{vhd.BlocksOverlap, vhd.BlocksOverlap}},
	{"blocks overlap", in(func(b []byte) { setEntry(b, 5, entry(b, 3)+7) }), []vhd.Fault{vhd.BlocksOverlap, vhd.BlocksOverlap}},
	{"cut inside a block", func(b []byte) []byte { return b[:len(b)-2048-512] },
		[]vhd.Fault{vhd.EndFooterMissing}}, // the last block's tail is not the disk's
	{"cut short", func(b []byte) []byte { return b[:len(b)-testBlock] },
		[]vhd.Fault{vhd.EndFooterMissing, vhd.BlockPastEnd}},
	{"file not of whole sectors", func(b []byte) []byte { return append(b, 1, 2, 3) }, []vhd.Fault{vhd.EndFooterMissing}},
	{"junk under a clear bit", in(func(b []byte) { b[int(entry(b, 1))*512] &= 0x7f }), []vhd.Fault{vhd.JunkUnderClearBits}},
}

// TestCheckFindsEachFault also pins that Open and Check agree, and that nothing but the fault is found.
func TestCheckFindsEachFault(t *testing.T) {
	t.Parallel()
	good, _ := goodDisk(t)
	for _, c := range faultCases {
		t.Run(c.name, func(t *testing.T) {
			f := inMemory(c.edit(bytes.Clone(good)))
			rep := check(t, f, vhd.CheckOptions{Data: true})
			var got []vhd.Fault
			for _, e := range rep.Findings {
				if e.Fault.Severity() > vhd.Note {
					got = append(got, e.Fault)
				}
				if e.Fault.Severity() == vhd.Damage && e.Fault.Repairable() {
					t.Errorf("%v is damage and repairable", e)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("findings %v, want %v", rep.Findings, c.want)
			}
			agree(t, f, rep)
		})
	}
}

// agree checks that Open refuses a file just when Check finds damage in it, and for a reason that is among the findings.
func agree(t *testing.T, f *memFile, rep *vhd.Report) {
	t.Helper()
	damaged := slices.ContainsFunc(rep.Findings, func(e *vhd.Error) bool { return inFile(e.Fault) })
	_, err := vhd.Open(f, f.size())
	if (err != nil) != damaged {
		t.Fatalf("open: %v, and check finds %v", err, rep.Findings)
	}
	if e, ok := errors.AsType[*vhd.Error](err); ok && !rep.Has(e.Fault) {
		t.Errorf("open: %v, which is not among the findings %v", err, rep.Findings)
	}
	m, err := vhd.Open(f, f.size(), vhd.Salvage())
	if (err == nil) != (rep.Image != nil) {
		t.Errorf("open what can be saved: %v, and check gives the image %v", err, rep.Image)
	}
	if err == nil && len(rep.Unusable) > 0 && m.AllocatedBlocks() != rep.Allocated {
		t.Errorf("%d blocks can be saved, check says %d", m.AllocatedBlocks(), rep.Allocated)
	}
}

// inFile reports whether a fault is damage of the file itself, not of its place in a chain.
func inFile(f vhd.Fault) bool {
	chain := []vhd.Fault{vhd.NoParent, vhd.WrongParent, vhd.Cycle, vhd.TooDeep, vhd.BadParent}
	return f.Severity() == vhd.Damage && !slices.Contains(chain, f)
}

func TestCheckNotes(t *testing.T) {
	t.Parallel()
	good, _ := goodDisk(t)
	for _, c := range []struct {
		name string
		edit func(b []byte) []byte
		want vhd.Fault
	}{
		{"saved state", footers(func(f []byte) { f[84] = 1 }), vhd.SavedState},
		{"future", footers(func(f []byte) { f[24] = 0xf0 }), vhd.FutureTimestamp},
		{"geometry", footers(func(f []byte) { f[57]++ }), vhd.WrongGeometry},
		{"features", footers(func(f []byte) { f[11] = 0 }), vhd.OddFooter},
		{"trailing bytes", func(b []byte) []byte {
			return append(append(b, make([]byte, 512)...), b[len(b)-512:]...)
		}, vhd.TrailingData},
		{"odd length", func(b []byte) []byte { return append(b, 0) }, vhd.OddFileSize},
	} {
		rep := check(t, inMemory(c.edit(bytes.Clone(good))), vhd.CheckOptions{Now: 1 << 20})
		if !rep.Has(c.want) {
			t.Errorf("%s: findings %v, want %v", c.name, rep.Findings, c.want)
		}
		if c.want.Severity() != vhd.Note {
			t.Errorf("%v is no note", c.want)
		}
	}
}

// TestCheckLost: the ranges that damaged entries cost are joined and end with the disk.
func TestCheckLost(t *testing.T) {
	t.Parallel()
	good, _ := goodDisk(t)
	for _, block := range []int{0, 1, 8} {
		setEntry(good, block, 1)
	}
	rep := check(t, inMemory(good), vhd.CheckOptions{})
	if fmt.Sprint(rep.Unusable) != "[0 1 8]" {
		t.Errorf("unusable blocks %v", rep.Unusable)
	}
	if want := fmt.Sprintf("[{0 %d} {%d %d}]", 2*testBlock, 8*testBlock, 3*512); fmt.Sprint(rep.Lost) != want {
		t.Errorf("lost %v, want %s", rep.Lost, want)
	}
	if rep.Blocks != 9 || rep.Allocated != 2 {
		t.Errorf("%d blocks, %d allocated", rep.Blocks, rep.Allocated)
	}
}

// TestCheckManyFindings: a table full of damage gives a report that a person can read.
func TestCheckManyFindings(t *testing.T) {
	t.Parallel()
	const blocks = 20000
	f := create(t, vhd.CreateOptions{Size: blocks * testBlock, BlockSize: testBlock, UUID: newUUID(1)})
	for i := range blocks {
		setEntry(f.data, i, uint32(i%3))
	}
	rep := check(t, f, vhd.CheckOptions{})
	if len(rep.Findings) > 500 || len(rep.Unusable) != blocks || rep.Omitted < blocks-500 {
		t.Errorf("%d findings, %d unusable, %d omitted", len(rep.Findings), len(rep.Unusable), rep.Omitted)
	}
	m, err := vhd.Open(f, f.size(), vhd.Salvage())
	if err != nil || len(m.Warnings()) > 500 {
		t.Errorf("%v, %d warnings", err, len(m.Warnings()))
	}
}

// TestFaultsHaveWords: every fault has a text of its own; a number would tell nobody anything.
func TestFaultsHaveWords(t *testing.T) {
	seen := map[string]bool{}
	for f := vhd.NotVHD; f <= vhd.NoLocator; f++ {
		if s := f.Error(); strings.HasPrefix(s, "fault ") || seen[s] {
			t.Errorf("fault %d: %q", int(f), s)
		} else {
			seen[s] = true
		}
	}
	if !errors.Is(vhd.BlocksOverlap, vhd.BadBAT) || errors.Is(vhd.BadBAT, vhd.BlocksOverlap) {
		t.Error("an overlap is a kind of damaged table, not the other way round")
	}
}

// TestCheckBatmap: a batmap that claims too much is found, in all the ways in which it can.
func TestCheckBatmap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		bits byte
		edit func(b []byte)
		want vhd.Fault // 0: nothing worse than a note
	}{
		{"good", 0xd4, func([]byte) {}, 0},
		{"fewer claims", 0x10, func([]byte) {}, 0},
		{"checksum", 0xd4, func(b []byte) { b[2560] |= 0x20 }, vhd.BatmapDamaged},
		{"block is not there", 0xf4, func([]byte) {}, vhd.BatmapWrong},
		{"block is not full", 0xd4, func(b []byte) { b[int(entry(b, 1))*512] &= 0x7f }, vhd.BatmapWrong},
		{"map outside", 0xd4, func(b []byte) { b[2048+10] = 1 }, vhd.BatmapDamaged},
		{"map on the table", 0xd4, func(b []byte) { binary.BigEndian.PutUint64(b[2048+8:], 1536) }, vhd.BatmapDamaged},
		{"key", 0xd4, func(b []byte) { b[2048+29] = 1 }, vhd.Encrypted},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, _ := smallTap(t, c.bits)
			c.edit(b)
			rep := check(t, inMemory(b), vhd.CheckOptions{Bitmaps: true})
			worst, _ := rep.Worst()
			if c.want == 0 && worst > vhd.Note || c.want != 0 && !rep.Has(c.want) {
				t.Errorf("findings %v, want %v", rep.Findings, c.want)
			}
		})
	}
}

// TestCheckSignedBatmap: version 1.1 adds the map's bytes as signed numbers.
func TestCheckSignedBatmap(t *testing.T) {
	t.Parallel()
	b, _ := smallTap(t, 0xd4)
	b[2048+23] = 1
	if rep := check(t, inMemory(b), vhd.CheckOptions{}); !rep.Has(vhd.BatmapDamaged) {
		t.Error("an unsigned checksum passes for a signed one")
	}
	// 0xd4 and 0x80 are -44 and -128.
	binary.BigEndian.PutUint32(b[2048+24:], ^uint32(0xffffff54))
	if rep := check(t, inMemory(b), vhd.CheckOptions{}); rep.Has(vhd.BatmapDamaged) {
		t.Errorf("findings %v", rep.Findings)
	}
}

func batmapSum(head, bits []byte) {
	b := append([]byte(nil), bits...)
	sum(append(b, 0, 0, 0, 0), len(b))
	b = append(b, 0, 0, 0, 0)
	sum(b, len(bits))
	copy(head[24:28], b[len(bits):])
}
