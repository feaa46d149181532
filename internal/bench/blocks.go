package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// blocksCase is the name of this comparison among the cases.
const blocksCase = "blocks"

// blocksTitle is its section of the page.
const blocksTitle = "A disk as a block device"

// blocksTools must be installed for it.
var blocksTools = []string{"fio", "qemu-nbd", "qemu-img", "qemu-io"}

// A load is what fio does to a disk.
type load struct {
	name string
	args []string
	iops bool // small requests are counted, large ones measured in bytes
}

// loads are what fio does, in this order; the leaf is new at the start.
func loads() []load {
	return []load{
		{"read, 1 MiB, depth 1", []string{"--rw=read", "--bs=1m", "--iodepth=1"}, false},
		{"read, 1 MiB, depth 32", []string{"--rw=read", "--bs=1m", "--iodepth=32"}, false},
		{"random read, 4 KiB, depth 1", []string{"--rw=randread", "--bs=4k", "--iodepth=1"}, true},
		{"random read, 4 KiB, depth 32", []string{"--rw=randread", "--bs=4k", "--iodepth=32"}, true},
		{"random write, 4 KiB, depth 1", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}, true},
		{"random write, 4 KiB, depth 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, true},
		{"the same, a flush each 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--fsync=32"}, true},
		{"write, 1 MiB, depth 1", []string{"--rw=write", "--bs=1m", "--iodepth=1"}, false},
		{"write, 1 MiB, depth 32", []string{"--rw=write", "--bs=1m", "--iodepth=32"}, false},
		{"random write again, 4 KiB, depth 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, true},
	}
}

// chainLength is the length of the longer chain; the other one has two disks.
const chainLength = 30

const (
	layerWrites  = 300 // writes of 4 KiB to each disk between the base and the leaf
	blocksSlowly = time.Second
	blocksFast   = 100 * time.Millisecond // for disks so small that it cannot matter
)

// blocks compares serving a chain of VHDs with qemu-nbd serving a chain of qcow2 files of the same content.
func (b *bench) blocks(ctx context.Context) error {
	for _, t := range blocksTools {
		if !installed(t) {
			b.table(noTable, blocksTitle, "Left out: "+t+" is not installed here.")
			return nil
		}
	}
	size := 16 * b.opts.size
	if err := b.free(6 * size); err != nil {
		return err
	}
	m := &blockBench{bench: b, size: size, figures: map[string][]float64{}, time: blocksSlowly, depths: []int{2, b.opts.chain}}
	if b.opts.size < 16*minSize {
		m.time = blocksFast
	}
	t := b.table(noTable, blocksTitle, m.about())
	if err := m.chains(ctx); err != nil {
		return err
	}
	for run := range b.opts.runs {
		b.say("run %d of %d: %s", run+1, b.opts.runs, blocksTitle)
		for _, depth := range m.depths {
			if err := m.run(ctx, run, depth); err != nil {
				return err
			}
		}
	}
	t.grid = m.grid()
	return b.remove(m.made...)
}

// blockBench is that comparison.
type blockBench struct {
	*bench
	size    int64
	time    time.Duration // of one measurement
	made    []string
	figures map[string][]float64 // by load, depth and program: of each run
	depths  []int                // of the chains
}

func (m *blockBench) about() string {
	return fmt.Sprintf("`vhd-util serve` with a chain of VHDs, and `qemu-nbd` with a chain of qcow2 files of the same content (page cache, "+
		"`--cache=writeback`): a base of %s, three quarters of it random bytes, a new leaf, and in the chain of %d disks between them that "+
		"have %d writes of 4 KiB each, all over the disk. The client is fio's engine for NBD, over a unix socket; each figure is the median "+
		"of %d runs of %v, in which the programs take turns. Small requests are counted per second, large ones in MiB/s.",
		size(m.size), m.depths[1], layerWrites, m.bench.opts.runs, m.time)
}

// server is a program that serves a disk.
type blockServer struct {
	name   string
	form   string // of its disks
	create func(leaf, parent string) command
	serve  func(leaf, socket string) command
}

var blockServers = []blockServer{
	{oursName, "vhd",
		func(leaf, parent string) command {
			return command{program: "vhd-util", args: []string{"snapshot", "-n", leaf, "-p", parent}}
		},
		func(leaf, socket string) command {
			return command{program: "vhd-util", args: []string{"serve", leaf, "--socket", socket}}
		}},
	{"qemu-nbd", "qcow2",
		func(leaf, parent string) command {
			return command{program: "qemu-img", args: []string{"create", "-q", "-f", "qcow2", "-b", parent, "-F", "qcow2", leaf}}
		},
		func(leaf, socket string) command {
			return command{program: "qemu-nbd", args: []string{"-k", socket, "-f", "qcow2", "--cache=writeback", "-t", leaf}}
		}},
}

// chains makes the disks but for the leaves.
func (m *blockBench) chains(ctx context.Context) error {
	raw := "base.raw"
	f, err := os.Create(m.at(raw))
	if err != nil {
		return err
	}
	c := newContent(99)
	for off := int64(0); off < m.size && err == nil; off += 4 << 20 {
		_, err = f.WriteAt(c.random(3<<20), off)
	}
	if err = errors.Join(err, f.Truncate(m.size), f.Close()); err != nil {
		return err
	}
	for _, c := range []command{
		{program: "vhd-util", args: []string{"convert", raw, "base.vhd"}},
		{program: "qemu-img", args: []string{"convert", "-O", "qcow2", raw, "base.qcow2"}},
	} {
		if _, err := m.do(ctx, c); err != nil {
			return err
		}
	}
	m.made = append(m.made, raw, "base.vhd", "base.qcow2")
	for _, s := range blockServers {
		parent := "base." + s.form
		r := rand.New(rand.NewPCG(seed, 30))
		for i := range m.depths[1] - 2 {
			name := fmt.Sprintf("layer%d.%s", i, s.form)
			if _, err := m.do(ctx, quiet(s.create(name, parent))); err != nil {
				return err
			}
			if err := m.fill(ctx, s, name, r); err != nil {
				return err
			}
			m.made = append(m.made, name)
			parent = name
		}
	}
	return nil
}

// do runs a command that is not measured from here, without waiting for the disk before it.
func (m *blockBench) do(ctx context.Context, c command) (string, error) {
	m.show(c)
	cmd := exec.CommandContext(ctx, m.path(c.program), c.args...)
	cmd.Dir = m.dir
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w: %s", c.program, err, lastWords(errs.String()+out.String())), context.Cause(ctx))
	}
	return out.String(), nil
}

func quiet(c command) command {
	c.quiet = true
	return c
}

// fill writes to a disk of a chain, always the same to the same one.
func (m *blockBench) fill(ctx context.Context, s blockServer, name string, r *rand.Rand) error {
	v, err := m.listen(ctx, quiet(s.serve(name, m.at("s"))), m.at("s"))
	if err != nil {
		return err
	}
	args := []string{"-f", "raw", "nbd+unix:///?socket=" + m.at("s")}
	for range layerWrites {
		args = append(args, "-c", fmt.Sprintf("write -q -P %d %d 4k", 1+r.IntN(255), r.Int64N(m.size/4096)*4096))
	}
	_, err = m.do(ctx, command{program: "qemu-io", args: args, quiet: true})
	return errors.Join(err, v.stop())
}

// listen starts a server and waits until its socket is there.
func (m *blockBench) listen(ctx context.Context, c command, socket string) (*service, error) {
	return m.bench.serve(ctx, "unix:"+socket, c)
}

// run measures both programs with all loads, in turns, on new leaves.
func (m *blockBench) run(ctx context.Context, run, depth int) error {
	var services []*service
	for _, s := range blockServers {
		leaf, parent := "leaf."+s.form, "base."+s.form
		if depth > 2 {
			parent = fmt.Sprintf("layer%d.%s", depth-3, s.form)
		}
		if err := m.remove(leaf, leaf+".log"); err != nil {
			return err
		}
		if _, err := m.do(ctx, s.create(leaf, parent)); err != nil {
			return err
		}
		v, err := m.listen(ctx, s.serve(leaf, m.at(s.form)), m.at(s.form))
		if err != nil {
			return err
		}
		services = append(services, v)
		m.made = append(m.made, leaf)
	}
	order := slices.Clone(blockServers)
	for i, l := range loads() {
		if (run+i)%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			n, err := m.measure(ctx, l, s)
			if err != nil {
				return err
			}
			at := figure(l, depth, s.name)
			m.figures[at] = append(m.figures[at], n)
		}
	}
	for _, v := range services {
		if err := v.stop(); err != nil {
			return err
		}
	}
	return nil
}

func figure(l load, depth int, program string) string { return fmt.Sprint(l.name, depth, program) }

// measure has fio do one load.
func (m *blockBench) measure(ctx context.Context, l load, s blockServer) (float64, error) {
	args := append([]string{"--name=" + s.form, "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + m.at(s.form), "--time_based",
		"--runtime=" + fmt.Sprint(m.time.Milliseconds(), "ms"), "--norandommap", "--output-format=json", fmt.Sprint("--size=", m.size)}, l.args...)
	out, err := m.do(ctx, command{program: "fio", args: args})
	if err != nil {
		return 0, err
	}
	type side struct {
		Bytes   int64   `json:"io_bytes"`
		Ops     int64   `json:"total_ios"`
		Runtime float64 `json:"runtime"` // milliseconds
	}
	var report struct {
		Jobs []struct {
			Error       int
			Read, Write side
		}
	}
	_, text, _ := strings.Cut(out, "{") // it may say other things before
	if err := json.Unmarshal([]byte("{"+text), &report); err != nil {
		return 0, fmt.Errorf("what fio reports: %w", err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 {
		return 0, fmt.Errorf("fio, %s, %s: it reports an error", l.name, s.name)
	}
	x := report.Jobs[0].Read
	if x.Bytes == 0 {
		x = report.Jobs[0].Write
	}
	if x.Runtime == 0 {
		return 0, fmt.Errorf("fio, %s, %s: nothing was done", l.name, s.name)
	}
	if l.iops {
		return float64(x.Ops) / x.Runtime * 1000, nil
	}
	return float64(x.Bytes) / x.Runtime * 1000 / (1 << 20), nil
}

// grid is the table: figures and ratios. The last column says what the long chain costs us.
func (m *blockBench) grid() []string {
	head := "| |"
	for _, d := range m.depths {
		head += fmt.Sprintf(" **%s**, chain of %d | qemu-nbd | ratio |", oursName, d)
	}
	lines := []string{head + fmt.Sprintf(" **%d to 2** |", m.depths[1]), "|---|" + strings.Repeat("---:|", 3*len(m.depths)+1)}
	for _, l := range loads() {
		line := "| " + l.name + " |"
		for _, d := range m.depths {
			ours, peer := middle(m.figures[figure(l, d, oursName)]), middle(m.figures[figure(l, d, "qemu-nbd")])
			line += fmt.Sprintf(" %s | %s | %.2f |", digits(int64(ours)), digits(int64(peer)), ours/peer)
		}
		long, short := middle(m.figures[figure(l, m.depths[1], oursName)]), middle(m.figures[figure(l, m.depths[0], oursName)])
		lines = append(lines, line+fmt.Sprintf(" %.2f |", long/short))
	}
	return lines
}

func middle(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[(len(v)-1)/2]
}
