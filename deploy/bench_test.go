package deploy_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"disksync/cache"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// benchBlocks is how many blocks the disk of BenchmarkDeploy has, all of them in use.
const benchBlocks = 256

// BenchmarkDeploy installs a full image from a folder on the same disk, and measures beside it what is part of that, each alone with
// the same bytes: reading the medium, unpacking and hashing on all processors, writing straight to the disk and waiting for it. The
// figures are medians. of-slowest is how fast the whole is in comparison with the slowest part, and of-processors in comparison with
// unpacking and hashing one after the other: nothing that does both can be faster than that.
func BenchmarkDeploy(b *testing.B) {
	m := newBenchMedium(b)
	parts := []struct {
		name string
		do   func() error
	}{{"read", m.read}, {"unpack", m.unpack}, {"sha256", m.hash}, {"write", m.write}, {"deploy", m.deploy}}
	took, busy := make([][]time.Duration, len(parts)), make([][]time.Duration, len(parts))
	for b.Loop() {
		for i, p := range parts {
			m.prepare()
			cpu, start := processorTime(b), time.Now()
			if err := p.do(); err != nil {
				b.Fatal(p.name, err)
			}
			took[i] = append(took[i], time.Since(start))
			busy[i] = append(busy[i], processorTime(b)-cpu)
		}
	}
	bytes := float64(len(m.disk))
	var slowest time.Duration
	for i, p := range parts {
		d := median(took[i])
		b.ReportMetric(bytes/1e6/d.Seconds(), p.name+"-MB/s")
		b.ReportMetric(median(busy[i]).Seconds()/bytes*1e9, p.name+"-cpu-s/GB")
		if i < len(parts)-1 {
			slowest = max(slowest, d)
		}
	}
	whole := median(took[len(parts)-1])
	b.ReportMetric(float64(whole), "ns/op")
	b.ReportMetric(slowest.Seconds()/whole.Seconds(), "of-slowest")
	b.ReportMetric((median(took[1])+median(took[2])).Seconds()/whole.Seconds(), "of-processors")
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchMedium is a folder with a full image, and the room to install it.
type benchMedium struct {
	*testing.B
	disk   []byte
	made   made
	state  image.State
	folder string // the medium
	fsys   durable.FS
}

const benchFile = "image.dsl"

func newBenchMedium(b *testing.B) *benchMedium {
	m := &benchMedium{B: b, disk: benchDisk(), folder: filepath.Join(b.TempDir(), "medium")}
	m.state = stateOf(m.disk)
	stick, err := durable.MakeDirs(m.folder, 0o700)
	if err != nil {
		b.Fatal(err)
	}
	f, err := stick.Create(benchFile, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	_, err = layer.Encode(b.Context(), io.NewOffsetWriter(f, 0), image.State{}, inMemory(m.disk), layer.EncodeOptions{Level: 3})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		b.Fatal(err)
	}
	if m.made.file, err = os.ReadFile(filepath.Join(m.folder, benchFile)); err != nil {
		b.Fatal(err)
	}
	if m.made.Index, err = layer.ReadIndex(inMemory(m.made.file), int64(len(m.made.file))); err != nil {
		b.Fatal(err)
	}
	if m.fsys, err = durable.Dir(b.TempDir()); err != nil {
		b.Fatal(err)
	}
	return m
}

// benchDisk is content that packs about as well and unpacks about as fast as the system of a computer: words, with some noise.
func benchDisk() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	d := make([]byte, benchBlocks*block)
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(14))
		for k := range words[i] {
			words[i][k] = byte(r.IntN(256))
		}
	}
	for at := 0; at < len(d); {
		at += copy(d[at:], words[int(float64(len(words))*r.Float64()*r.Float64()*r.Float64())])
		at += copy(d[at:], words[r.IntN(len(words))][:1])
	}
	return d
}

// inMemory is bytes to read.
type inMemory []byte

func (m inMemory) Size() int64 { return int64(len(m)) }

func (m inMemory) NextData(off int64) (int64, error) { return off, nil }

func (m inMemory) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, m[min(off, int64(len(m))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// prepare makes the next one begin with a medium that is not in memory, and without garbage.
func (m *benchMedium) prepare() {
	unix.Sync()
	runtime.GC()
	fsys, err := durable.Dir(m.folder)
	if err != nil {
		m.Fatal(err)
	}
	f, err := fsys.Open(benchFile)
	if err != nil {
		m.Fatal(err)
	}
	f.DropCache()
	f.Close()
}

func (m *benchMedium) read() error {
	f, err := os.Open(filepath.Join(m.folder, benchFile))
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Read(b)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// onAll calls do for each block on all processors, with a buffer of a block.
func (m *benchMedium) onAll(do func(i int, b []byte) error) error {
	var g errgroup.Group
	n := runtime.GOMAXPROCS(0)
	for first := range n {
		g.Go(func() error {
			b := make([]byte, block)
			for i := first; i < benchBlocks; i += n {
				if err := do(i, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (m *benchMedium) unpack() error {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecoderMaxWindow(block))
	if err != nil {
		return err
	}
	defer z.Close()
	return m.onAll(func(i int, b []byte) error {
		out, err := z.DecodeAll(m.made.frame(m.made.Frame(i)), b[:0])
		if err == nil && len(out) != block {
			err = fmt.Errorf("%d bytes", len(out))
		}
		return err
	})
}

func (m *benchMedium) hash() error {
	return m.onAll(func(i int, b []byte) error {
		if image.Digest(sha256.Sum256(m.disk[i*block:][:block])) != m.state.Blocks[i] {
			return errors.New("wrong digest")
		}
		return nil
	})
}

func (m *benchMedium) write() error {
	f, err := m.fsys.Create("file", 0o600)
	if err != nil {
		return err
	}
	f.Direct()
	for at := 0; at < len(m.disk) && err == nil; at += block {
		_, err = f.WriteAt(m.disk[at:][:block], int64(at))
	}
	return errors.Join(err, f.Sync(), f.Close(), m.fsys.Remove("file"))
}

func (m *benchMedium) deploy() error {
	fsys, err := durable.Dir(m.TempDir())
	if err != nil {
		return err
	}
	s := openStore(m, fsys)
	inv, err := cache.Scan(m.Context(), cache.Medium{Kind: cache.USB, Dir: m.folder})
	if err != nil {
		return err
	}
	defer inv.Close()
	wanted := map[image.Digest]bool{}
	for _, d := range m.state.Blocks {
		wanted[d] = true
	}
	src := inv.Source(cache.Wanted{Blocks: wanted, Layers: []*layer.Index{m.made.Index}})
	tally := deploy.NewTally()
	if _, err := s.Install(m.Context(), m.made.Index, []deploy.Source{src}, tally); err != nil {
		return err
	}
	if n, _, _ := tally.Counts(); n != benchBlocks {
		return fmt.Errorf("%d blocks were read back", n)
	}
	return fsys.Remove(deploy.Path(image.VHDUUID(m.state.ID())))
}
