package vhd_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"disksync/internal/testkit"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// benchBytes is how much data the benchmarks of copies have: DISKSYNC_VHD_BENCH_MIB, or what ends in a few seconds.
func benchBytes(b *testing.B) int64 {
	b.Helper()
	mib := int64(128)
	if s := os.Getenv("DISKSYNC_VHD_BENCH_MIB"); s != "" {
		var err error
		if mib, err = strconv.ParseInt(s, 10, 32); err != nil {
			b.Fatal(err)
		}
	}
	return mib << 20
}

// writeNoise makes a raw file of n bytes of data, in runs of 1 to 9 MiB with holes as long in between.
func writeNoise(b *testing.B, name string, n int64) *os.File {
	b.Helper()
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	r := rand.New(rand.NewPCG(1, 2))
	src := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	off := int64(0)
	for n > 0 {
		for range r.IntN(9) + 1 {
			src.Read(buf)
			if _, err := f.WriteAt(buf[:min(n, int64(len(buf)))], off); err != nil {
				b.Fatal(err)
			}
			off += 1 << 20
			if n -= min(n, 1<<20); n == 0 {
				break
			}
		}
		off += r.Int64N(9<<20) / 512 * 512
	}
	if err := f.Truncate(off / 512 * 512); err != nil {
		b.Fatal(err)
	}
	return f
}

// cost is what a run took.
type cost struct{ wall, cpu time.Duration }

// measure runs f and returns what it took this process and its children.
func measure(b *testing.B, f func() error) cost {
	b.Helper()
	cpu := func() time.Duration {
		var sum time.Duration
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
		return sum
	}
	start, used := time.Now(), cpu()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	return cost{time.Since(start), cpu() - used}
}

// noSync is a file that leaves the writing back to the system, as qemu-img does: what a disk takes to write would hide what is
// compared.
type noSync struct{ *os.File }

func (noSync) Sync() error { return nil }

// against runs ours and qemu-img's copy in turn, each to a new file, and reports the ratios: below 1 ours is faster.
func against(b *testing.B, size int64, ours func(to vhd.File) error, qemu ...string) {
	tool := testkit.Tool(b, "qemu-img")
	out := filepath.Join(b.TempDir(), "out")
	b.SetBytes(size)
	// The first to take memory pays for it, above all in a virtual machine; that is neither of the two.
	if err := exec.Command(tool, append(qemu, out)...).Run(); err != nil {
		b.Fatal(err)
	}
	os.Remove(out)
	var own, other cost
	for b.Loop() {
		b.StopTimer()
		syscall.Sync() // each begins with nothing to be written back
		b.StartTimer()
		c := measure(b, func() error {
			f, err := os.Create(out)
			if err != nil {
				return err
			}
			defer f.Close()
			return ours(noSync{f})
		})
		own = cost{own.wall + c.wall, own.cpu + c.cpu}
		b.StopTimer()
		os.Remove(out)
		syscall.Sync()
		c = measure(b, func() error {
			if text, err := exec.Command(tool, append(qemu, out)...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, text)
			}
			return nil
		})
		other = cost{other.wall + c.wall, other.cpu + c.cpu}
		os.Remove(out)
		b.StartTimer()
	}
	b.ReportMetric(own.wall.Seconds()/other.wall.Seconds(), "wall/qemu")
	b.ReportMetric(own.cpu.Seconds()/other.cpu.Seconds(), "cpu/qemu")
}

func BenchmarkRawToDynamic(b *testing.B) {
	size := benchBytes(b)
	raw := writeNoise(b, filepath.Join(b.TempDir(), "raw"), size)
	src, err := vhdfile.RawSource(raw)
	if err != nil {
		b.Fatal(err)
	}
	against(b, size, func(to vhd.File) error {
		return vhd.Convert(context.Background(), to, src, vhd.CreateOptions{UUID: newUUID(1)}, vhd.CopyOptions{})
	}, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", raw.Name())
}

func BenchmarkDynamicToRaw(b *testing.B) {
	size := benchBytes(b)
	name := filepath.Join(b.TempDir(), "disk.vhd")
	src, err := vhdfile.RawSource(writeNoise(b, name+".raw", size))
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := vhdfile.Convert(context.Background(), f, src, vhd.CreateOptions{UUID: newUUID(1)}, vhd.CopyOptions{}); err != nil {
		b.Fatal(err)
	}
	os.Remove(name + ".raw")
	c, err := vhdfile.OpenChain(name, vhdfile.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	against(b, size, func(to vhd.File) error {
		return vhd.ConvertRaw(context.Background(), to, c, vhd.CopyOptions{})
	}, "convert", "-f", "vpc", "-O", "raw", name)
}

// chainOf makes a chain of n disks of size bytes in dir and returns the leaf's name.
func chainOf(b *testing.B, dir string, n int, size int64) string {
	b.Helper()
	var parent *vhd.Image
	var below string
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("Datenträger %d.vhd", i))
		f, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		o := vhd.CreateOptions{Size: size, UUID: newUUID(byte(i + 1))}
		if parent == nil {
			err = vhd.Create(f, o)
		} else {
			err = vhd.Snapshot(f, parent, filepath.Base(below), o)
		}
		if err != nil {
			b.Fatal(err)
		}
		length, err := vhdfile.Size(f)
		if err != nil {
			b.Fatal(err)
		}
		if parent, err = vhd.Open(f, length); err != nil {
			b.Fatal(err)
		}
		below = name
	}
	return below
}

func BenchmarkOpenChain30(b *testing.B) {
	leaf := chainOf(b, b.TempDir(), 30, 100<<30)
	for b.Loop() {
		c, err := vhdfile.OpenChain(leaf, vhdfile.Options{})
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkOpenLargest opens a disk of 2040 GiB with every block allocated, and reports the memory that stays.
func BenchmarkOpenLargest(b *testing.B) {
	f, fileSize := largest(b)
	var before, after runtime.MemStats
	var m *vhd.Image
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		var err error
		if m, err = vhd.Open(f, fileSize); err != nil {
			b.Fatal(err)
		}
		runtime.ReadMemStats(&after)
	}
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/(1<<20), "MiB")
	runtime.KeepAlive(m)
}

// BenchmarkCoalesce merges a child into its dynamic parent: half of the child's blocks are new there.
func BenchmarkCoalesce(b *testing.B) {
	size := benchBytes(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := b.TempDir()
		leaf := chainOf(b, dir, 2, 2*size)
		base := filepath.Join(dir, "Datenträger 0.vhd")
		fill(b, base, size/2)
		fill(b, leaf, size)
		d, err := vhdfile.OpenDisk(base, vhdfile.Options{})
		if err != nil {
			b.Fatal(err)
		}
		c, err := vhdfile.OpenChain(leaf, vhdfile.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(size)
		b.StartTimer()
		o := vhd.CoalesceOptions{Children: vhd.NoOtherChildren}
		if err := vhd.Coalesce(context.Background(), d.Disk, c.Members()[:1], o); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		c.Close()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}

// fill writes the first n bytes of a disk.
func fill(b *testing.B, name string, n int64) {
	b.Helper()
	d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
	if err != nil {
		b.Fatal(err)
	}
	p := noise(4<<20, 5)
	for off := int64(0); off < n; off += int64(len(p)) {
		if _, err := d.WriteAt(p[:min(n-off, int64(len(p)))], off); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
