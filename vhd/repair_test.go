package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
)

func repair(t testing.TB, f *memFile, o vhd.RepairOptions) *vhd.RepairResult {
	t.Helper()
	res, err := vhd.Repair(f, f.size(), o)
	if err != nil {
		t.Fatal(err)
	}
	if res.Size != f.size() {
		t.Errorf("the file has %d bytes, the result says %d", f.size(), res.Size)
	}
	return res
}

// repairCases are files that Repair makes clean, by the fault that is mended.
func repairCases(t *testing.T) map[string]struct {
	file    []byte
	o       vhd.RepairOptions
	content []byte
} {
	good, content := goodDisk(t)
	type c = struct {
		file    []byte
		o       vhd.RepairOptions
		content []byte
	}
	out := map[string]c{}
	all := vhd.RepairOptions{UUID: newUUID(9), Geometry: true, ZeroJunk: true}
	for _, fc := range faultCases {
		switch fc.name {
		case "end footer gone", "end footer damaged", "copy damaged", "copy gone", "copy differs", "both checksums stale", "no uuid",
			"cut inside a block":
			out[fc.name] = c{fc.edit(bytes.Clone(good)), all, content}
		}
	}
	edited := func(edit func(b []byte) []byte) []byte { return edit(bytes.Clone(good)) }
	out["geometry"] = c{edited(footers(func(f []byte) { f[57]++ })), all, content}
	out["footer of 511 bytes"] = c{good[:len(good)-1], all, content}
	c7 := bytes.Repeat([]byte{0xc7}, 512)
	out["footer overwritten by tapdisk"] = c{edited(in(func(b []byte) { copy(b[len(b)-512:], c7) })), all, content}
	out["no uuid and no end footer"] = c{edited(func(b []byte) []byte {
		clear(b[68:84])
		sum(b[:512], 64)
		return b[:len(b)-512]
	}), all, content}
	out["copy damaged and geometry"] = c{edited(func(b []byte) []byte {
		editFooters(b, func(f []byte) { f[57]++ })
		b[99]++
		return b
	}), all, content}
	out["stale header"] = c{edited(func(b []byte) []byte {
		b[100]++
		b[len(b)-412]++
		b[goodHeader+800]++
		return b
	}), all, content}
	junk := edited(in(func(b []byte) { b[int(entry(b, 1))*512] &= 0x7e }))
	zeroed := bytes.Clone(content)
	clear(zeroed[testBlock : testBlock+512])
	clear(zeroed[testBlock+7*512 : testBlock+8*512])
	out["junk"] = c{junk, all, zeroed}

	notThere, tapContent := smallTap(t, 0xf4)
	out["batmap claims what is not there"] = c{notThere, vhd.RepairOptions{}, tapContent}
	tooMuch, _ := smallTap(t, 0xd4)
	at := int(entry(tooMuch, 1)) * 512
	tooMuch[at] &= 0x7f // the first sector of block 1 is not the disk's own
	clear(tooMuch[at+512 : at+1024])
	partial := bytes.Clone(tapContent)
	clear(partial[4096 : 4096+512])
	out["batmap claims too much"] = c{tooMuch, vhd.RepairOptions{}, partial}
	sumWrong := bytes.Clone(notThere)
	sumWrong[2560] = 0xff
	out["batmap checksum"] = c{sumWrong, vhd.RepairOptions{}, tapContent}
	return out
}

// TestRepair: what Repair mends is clean afterwards and has the content that it had, and after a crash at any write it opens as it
// did before and can be repaired again.
func TestRepair(t *testing.T) {
	t.Parallel()
	for name, c := range repairCases(t) {
		t.Run(name, func(t *testing.T) {
			before := check(t, inMemory(c.file), vhd.CheckOptions{Data: true})
			do := func(f *memFile) error {
				_, err := vhd.Repair(f, f.size(), c.o)
				return err
			}
			crashEverywhere(t, c.file, do, func(t *testing.T, after *memFile) {
				if !bytes.Equal(composed(t, after), c.content) {
					t.Fatal("content changed")
				}
				repair(t, after, c.o)
				rep := check(t, after, vhd.CheckOptions{Data: true})
				if worst, _ := rep.Worst(); worst > vhd.Note {
					t.Fatalf("left: %v; before: %v", rep.Findings, before.Findings)
				}
				if !bytes.Equal(composed(t, after), c.content) {
					t.Fatal("content changed by the second repair")
				}
				again := bytes.Clone(after.data)
				if repair(t, after, c.o); !bytes.Equal(again, after.data) {
					t.Fatal("a clean file was changed")
				}
			})
		})
	}
}

// TestRepairRefuses: damage that cannot be mended stays as it is, to the byte, and is named.
func TestRepairRefuses(t *testing.T) {
	t.Parallel()
	good, _ := goodDisk(t)
	n := 0
	for _, c := range faultCases {
		b := c.edit(bytes.Clone(good))
		f := inMemory(b)
		rep := check(t, f, vhd.CheckOptions{})
		if worst, _ := rep.Worst(); worst != vhd.Damage {
			continue
		}
		n++
		res, err := vhd.Repair(f, f.size(), vhd.RepairOptions{UUID: newUUID(9), Geometry: true, ZeroJunk: true})
		if e, ok := errors.AsType[*vhd.Error](err); !ok || !rep.Has(e.Fault) {
			t.Errorf("%s: %v, want one of %v", c.name, err, rep.Findings)
		}
		if res == nil || len(res.Left) == 0 || len(res.Mended) > 0 {
			t.Errorf("%s: result %+v", c.name, res)
		}
		if f.ops > 0 || !bytes.Equal(f.data, b) {
			t.Errorf("%s: the file was written to", c.name)
		}
	}
	if n < 20 {
		t.Fatalf("only %d cases", n)
	}
}

// TestRepairKeepsBytes: what a program keeps in reserved bytes, and bytes that nothing refers to, survive.
func TestRepairKeepsBytes(t *testing.T) {
	t.Parallel()
	good, content := goodDisk(t)
	editFooters(good, func(f []byte) { copy(f[200:], "SIMH keeps its own here") })
	end := bytes.Clone(good[len(good)-512:])
	tail := noise(1000, 5)
	f := inMemory(append(good, tail...))
	res := repair(t, f, vhd.RepairOptions{})
	if len(res.Mended) == 0 {
		t.Error("nothing mended")
	}
	if !bytes.Equal(f.data[len(good):len(good)+len(tail)], tail) {
		t.Error("bytes behind the end are gone")
	}
	if got := f.data[len(f.data)-512:]; !bytes.Equal(got, end) || !bytes.Equal(f.data[:512], end) {
		t.Error("the footer changed")
	}
	if !bytes.Equal(composed(t, f), content) {
		t.Error("content changed")
	}
}

// TestRepairDrops: blocks that are given up are told with their ranges, and all of them go, whenever the power is cut.
func TestRepairDrops(t *testing.T) {
	t.Parallel()
	good, content := goodDisk(t)
	setEntry(good, 5, entry(good, 3)+7)
	setEntry(good, 4, 0x7fffffff)
	rep := check(t, inMemory(good), vhd.CheckOptions{})
	if fmt.Sprint(rep.Unusable) != "[3 4 5]" {
		t.Fatalf("unusable %v", rep.Unusable)
	}
	if _, err := vhd.Repair(inMemory(good), int64(len(good)), vhd.RepairOptions{Drop: []int{3, 4}}); !errors.Is(err, vhd.BadBAT) {
		t.Errorf("dropped half of an overlap: %v", err)
	}
	clear(content[3*testBlock : 6*testBlock])
	o := vhd.RepairOptions{Drop: rep.Unusable}
	do := func(f *memFile) error {
		res, err := vhd.Repair(f, f.size(), o)
		if err == nil && fmt.Sprint(res.Lost) != fmt.Sprintf("[{%d %d}]", 3*testBlock, 3*testBlock) {
			t.Errorf("lost %v", res.Lost)
		}
		return err
	}
	crashEverywhere(t, good, do, func(t *testing.T, after *memFile) {
		if err := do(after); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(composed(t, after), content) {
			t.Fatal("content differs")
		}
	})
}

// TestRepairFixed: a fixed disk has one footer. What can be mended in it is, and offset 0 is never touched.
func TestRepairFixed(t *testing.T) {
	t.Parallel()
	whole := create(t, vhd.CreateOptions{Size: 64 << 10, Type: vhd.Fixed, UUID: newUUID(1)}).data
	copy(whole, noise(64<<10, 1))
	copy(whole, "conectix") // the guest's, and no footer
	bare := bytes.Clone(whole)
	foot := bare[len(bare)-512:]
	clear(foot[28:40]) // as hcsshim leaves it: no creator, geometry or uuid
	clear(foot[56:60])
	clear(foot[68:84])
	sum(foot, 64)
	for name, start := range map[string][]byte{
		"footer of 511 bytes": whole[:len(whole)-1], "bare footer": bare, "one sector": corpusBytes(t, "gen-qemu/fixed-1sector"),
	} {
		content := composed(t, inMemory(start))
		o := vhd.RepairOptions{UUID: newUUID(9), Geometry: true}
		do := func(f *memFile) error {
			_, err := vhd.Repair(f, f.size(), o)
			return err
		}
		crashEverywhere(t, start, do, func(t *testing.T, after *memFile) {
			res := repair(t, after, o)
			if len(res.Left) > 0 {
				t.Errorf("%s: left %v", name, res.Left)
			}
			if !bytes.Equal(composed(t, after), content) {
				t.Errorf("%s: content changed", name)
			}
		})
	}
}

// TestRepairCorpus: damaged files whose content is whole read the same afterwards, for qemu-img too.
func TestRepairCorpus(t *testing.T) {
	for _, name := range []string{"bad-copy0", "bad-end-footer", "no-end-footer", "trailing-garbage"} {
		f := inMemory(corpusBytes(t, "crafted/"+name))
		want := composed(t, f)
		res := repair(t, f, vhd.RepairOptions{})
		for _, e := range res.Left {
			if e.Fault.Severity() > vhd.Note {
				t.Errorf("%s: left %v", name, e)
			}
		}
		if got := composed(t, f); !bytes.Equal(got, want) {
			t.Errorf("%s: content changed", name)
		}
		qemuReads(t, f, want)
	}
}

// qemuReads checks that qemu-img reads the same from a dynamic disk.
func qemuReads(t *testing.T, f *memFile, want []byte) {
	t.Helper()
	dir := t.TempDir()
	name, raw := filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "raw")
	if err := os.WriteFile(name, f.data, 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "info", "-f", "vpc", name)
	qemuImg(t, "convert", "-f", "vpc", "-O", "raw", name, raw)
	got, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("qemu-img reads another content")
	}
}
