package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"disksync/vhd"
)

// modelBlock is small, so that many blocks are few bytes.
const modelBlock = 4096

// model is a chain of disks beside a plain array that must always have the same content.
type model struct {
	t     *rapid.T
	files []*memFile // base first
	d     *vhd.Disk  // the last of files, open
	disk  []byte     // what the disk must read as
	safe  []byte     // what it read as when it was synced last
	since []write    // what was written since then
	uuids byte
}

func (m *model) fatal(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) images(files []*memFile) []*vhd.Image {
	var out []*vhd.Image
	for i := len(files) - 1; i >= 0; i-- {
		im, err := vhd.Open(files[i], files[i].size())
		m.fatal(err)
		out = append(out, im)
	}
	return out
}

// open opens the last file for writing.
func (m *model) open() {
	n := len(m.files) - 1
	f := m.files[n]
	var err error
	if ahead := rapid.Int64Range(0, 3).Draw(m.t, "ahead") * modelBlock; ahead > 0 {
		roomy := roomyFile{memFile: f, full: rapid.Bool().Draw(m.t, "full")}
		m.d, err = vhd.OpenDisk(roomy, f.size(), m.images(m.files[:n]), vhd.Ahead(ahead, rapid.Int64Range(0, 30*modelBlock).Draw(m.t, "most")))
	} else {
		m.d, err = vhd.OpenDisk(f, f.size(), m.images(m.files[:n]))
	}
	m.fatal(err)
}

func (m *model) synced() { m.safe, m.since = bytes.Clone(m.disk), nil }

func (m *model) sync() {
	m.fatal(m.d.Sync())
	m.synced()
}

// drawRange draws a range of the disk.
func (m *model) drawRange() (off, n int64) {
	size := int64(len(m.disk))
	off = rapid.Int64Range(0, size-1).Draw(m.t, "off")
	return off, rapid.Int64Range(0, min(size-off, 3*modelBlock)).Draw(m.t, "n")
}

// put does a write and tells the model of it, whether it fails or not.
func (m *model) put(p []byte, off int64, do func() error) error {
	// What is touched in part is written whole, with what the disk had around it.
	next := bytes.Clone(m.disk)
	copy(next[off:], p)
	start, end := off/512*512, (off+int64(len(p))+511)/512*512
	m.since = append(m.since, write{off: start, b: next[start:end]})
	err := do()
	if err == nil {
		m.disk = next
	}
	return err
}

func (m *model) write() error {
	off, n := m.drawRange()
	p := noise(int(n), rapid.Uint64().Draw(m.t, "seed"))
	if rapid.Bool().Draw(m.t, "zero") {
		clear(p)
	}
	return m.put(p, off, func() error {
		_, err := m.d.WriteAt(p, off)
		return err
	})
}

func (m *model) discard() error {
	off, n := m.drawRange()
	zero := m.d.Discard
	if rapid.Bool().Draw(m.t, "stored") {
		zero = m.d.WriteZeros
	}
	return m.put(make([]byte, n), off, func() error { return zero(off, n) })
}

func (m *model) resize() error {
	size := rapid.Int64Range(1, 30*modelBlock/512).Draw(m.t, "sectors") * 512
	// A resize syncs first, so only the size can be one thing or the other.
	m.sync()
	err := m.d.Resize(context.Background(), size, vhd.ResizeOptions{Force: true})
	if err == nil {
		m.disk = resized(m.disk, size)
		m.synced()
	}
	return err
}

func (m *model) snapshot() {
	if len(m.files) == 30 {
		return
	}
	m.sync()
	m.uuids++
	f := &memFile{}
	size := int64(len(m.disk)) + rapid.Int64Range(0, 20).Draw(m.t, "more")*512
	m.fatal(vhd.Snapshot(f, m.d.Leaf(), "p.vhd", vhd.CreateOptions{Size: size, UUID: newUUID(m.uuids)}))
	m.files = append(m.files, f)
	m.disk = resized(m.disk, size)
	m.synced()
	m.open()
}

// coalesce merges the leaf and some of its parents into one below, which becomes the leaf. cut is the operation at which the
// power goes.
func (m *model) coalesce(cut int) {
	if len(m.files) == 1 {
		return
	}
	m.sync()
	leaf := len(m.files) - 1
	to := rapid.IntRange(0, leaf-1).Draw(m.t, "ancestor")
	into := m.files[to]
	o := vhd.CoalesceOptions{Grow: true, Children: vhd.NoOtherChildren, CheckpointBytes: modelBlock}
	if cut > 0 {
		into.failAt = into.ops + cut
	}
	merge := func() error {
		d, err := vhd.OpenDisk(into, into.size(), m.images(m.files[:to]))
		m.fatal(err)
		return vhd.Coalesce(context.Background(), d, m.images(m.files[to+1:]), o)
	}
	if err := merge(); errors.Is(err, errInjected) {
		into = into.afterPowerLoss(0.5, rand.New(rand.NewPCG(uint64(cut), 0)))
		m.files[to] = into
		m.open()
		m.check() // the whole chain is still good
		m.fatal(merge())
	} else {
		m.fatal(err)
	}
	into.failAt = 0
	m.open()
	m.check()
	m.files = m.files[:to+1]
	m.open()
	m.disk = resized(m.disk, m.d.Size()) // the ancestor may be larger
	m.synced()
}

// crash lets the power go in the middle of something, or between two things.
func (m *model) crash() {
	f := m.files[len(m.files)-1]
	f.failAt = f.ops + rapid.IntRange(1, 30).Draw(m.t, "cut")
	var err error
	resizing := int64(-1)
	for range 3 {
		switch rapid.IntRange(0, 3).Draw(m.t, "what") {
		case 0:
			err = m.write()
		case 1:
			err = m.discard()
		case 2:
			if err = m.d.Sync(); err == nil {
				m.synced()
			}
		case 3:
			if err = m.d.Sync(); err != nil {
				break
			}
			m.synced()
			resizing = rapid.Int64Range(1, 30*modelBlock/512).Draw(m.t, "sectors") * 512
			if err = m.d.Resize(context.Background(), resizing, vhd.ResizeOptions{Force: true}); err == nil {
				m.disk, resizing = resized(m.disk, resizing), -1
				m.synced()
			}
		}
		if err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, errInjected) {
		m.t.Fatal(err)
	}
	f = f.afterPowerLoss([]float64{0, 0.5, 1}[rapid.IntRange(0, 2).Draw(m.t, "keep")], rand.New(rand.NewPCG(rapid.Uint64().Draw(m.t, "seed"), 0)))
	m.files[len(m.files)-1] = f
	m.open()
	now := readAll(m.t, m.d, m.d.Size())
	safe := m.safe
	if len(now) != len(safe) {
		if int64(len(now)) != resizing {
			m.t.Fatalf("%d bytes after a crash, want %d or %d", len(now), len(safe), resizing)
		}
		safe = resized(safe, resizing)
	}
	for s := int64(0); s < int64(len(now)); s += 512 {
		if !plausible(now[s:s+512], s, safe, m.since) {
			m.t.Fatalf("after a crash sector %d holds what nobody wrote there last", s/512)
		}
	}
	m.disk = now
	m.synced()
}

func (m *model) check() {
	m.t.Helper()
	if !bytes.Equal(readAll(m.t, m.d, m.d.Size()), m.disk) {
		m.t.Fatal("content differs from the model")
	}
}

// TestModel does everything that can be done to a disk in any order, with crashes, and compares it with a plain array.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(1, 20*modelBlock/512).Draw(rt, "sectors") * 512
		typ := rapid.SampledFrom([]vhd.Type{vhd.Dynamic, vhd.Fixed}).Draw(rt, "type")
		m := &model{t: rt, uuids: 1, files: []*memFile{{}}, disk: make([]byte, size)}
		m.fatal(vhd.Create(m.files[0], vhd.CreateOptions{Size: size, Type: typ, BlockSize: modelBlock, UUID: newUUID(1)}))
		m.synced()
		m.open()
		rt.Repeat(map[string]func(*rapid.T){
			"write":    func(rt *rapid.T) { m.t = rt; m.fatal(m.write()) },
			"discard":  func(rt *rapid.T) { m.t = rt; m.fatal(m.discard()) },
			"sync":     func(rt *rapid.T) { m.t = rt; m.sync() },
			"trim":     func(rt *rapid.T) { m.t = rt; m.fatal(m.d.Trim()) },
			"resize":   func(rt *rapid.T) { m.t = rt; m.fatal(m.resize()) },
			"snapshot": func(rt *rapid.T) { m.t = rt; m.snapshot() },
			"coalesce": func(rt *rapid.T) { m.t = rt; m.coalesce(rapid.IntRange(0, 40).Draw(rt, "cut")) },
			"crash":    func(rt *rapid.T) { m.t = rt; m.crash() },
			"reopen":   func(rt *rapid.T) { m.t = rt; m.sync(); m.open() },
			"":         func(rt *rapid.T) { m.t = rt; m.check() },
		})
	})
}
