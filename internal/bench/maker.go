package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maker makes disks with file systems, always with the same content.
type maker struct {
	*bench
	size int64 // of the large file
}

const (
	// minSize is the least for the large file.
	minSize = 4 << 20

	treeFolder = "tree"
	bigFile    = "big"
	seed       = 20
	fsUUID     = "6469736b-7379-4e63-8000-62656e636801"
	stretch    = 64 << 10 // of the large file: random bytes, then text, and so on
)

// madeAt is when all files were made.
var madeAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// diskBytes is the size of a disk: there must be room for the large file twice, and for what a file system needs.
func (m *maker) diskBytes() int64 { return m.size*5/2 + 24<<20 }

func (m *maker) disk(name string) string { return m.at(filepath.Join(disksFolder, name)) }

// content makes bytes of either kind.
type content struct {
	r     *rand.Rand
	words []string
}

func newContent(stream uint64) *content {
	c := &content{r: rand.New(rand.NewPCG(seed, stream))}
	for range 4000 {
		w := make([]byte, 2+c.r.IntN(9))
		for i := range w {
			w[i] = byte('a' + c.r.IntN(26))
		}
		c.words = append(c.words, string(w))
	}
	return c
}

func (c *content) random(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = appendUint64(b, c.r.Uint64())
	}
	return b[:n]
}

func appendUint64(b []byte, v uint64) []byte {
	for i := range 8 {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

func (c *content) text(n int) []byte {
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(append(b, c.words[c.r.IntN(len(c.words))]...), ' ')
	}
	return b[:n]
}

// tree makes the files that are on the disks.
func (m *maker) tree() error {
	dir := m.at(treeFolder)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	c := newContent(1)
	if err := m.big(c, filepath.Join(dir, bigFile)); err != nil {
		return err
	}
	for i := range min(max(m.size>>18, 16), 2000) {
		sub := filepath.Join(dir, fmt.Sprintf("folder%02d", i%20))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		if err := m.put(filepath.Join(sub, fmt.Sprintf("file%04d", i)), c.text(1+c.r.IntN(32<<10))); err != nil {
			return err
		}
	}
	return nil
}

// big makes the large file, piece by piece: memory of ours would count as that of the programs that we start.
func (m *maker) big(c *content, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := m.size; left > 0; {
		b := append(c.random(stretch), c.text(stretch)...)
		b = b[:min(int64(len(b)), left)]
		if _, err := f.Write(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	return os.Chtimes(name, madeAt, madeAt)
}

func (m *maker) put(name string, b []byte) error {
	if err := os.WriteFile(name, b, 0o644); err != nil {
		return err
	}
	return os.Chtimes(name, madeAt, madeAt)
}

// fileSystem makes a disk with the files.
func (m *maker) fileSystem(ctx context.Context, name string, ext3 bool) error {
	program := "mkfs.ext4"
	if ext3 {
		program = "mkfs.ext3"
	}
	return m.tool(ctx, program, "-q", "-F", "-b", "4096", "-U", fsUUID, "-E", "hash_seed="+fsUUID+",lazy_itable_init=0,lazy_journal_init=0",
		"-d", treeFolder, m.short(m.disk(name)), strconv.FormatInt(m.diskBytes()>>10, 10)+"k")
}

// tool runs one of the file system's tools. Their status 1 says that something was changed, as it should be.
func (m *maker) tool(ctx context.Context, program string, args ...string) error {
	c := command{program: program, args: args, env: []string{fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", madeAt.Unix())}}
	_, err := m.run(ctx, c)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 && program == "e2fsck" {
		return nil
	}
	return err
}

// bigBlocks returns where on the disk the clusters of the large file are, in its order. debugfs also lists what is not the file's
// content but says where that is; so the content decides.
func (m *maker) bigBlocks(ctx context.Context, disk string) ([]int64, error) {
	text, err := m.quietly(ctx, "debugfs", "-R", "blocks /"+bigFile, m.short(m.disk(disk)))
	if err != nil {
		return nil, err
	}
	want, err := os.Open(m.at(filepath.Join(treeFolder, bigFile)))
	if err != nil {
		return nil, err
	}
	defer want.Close()
	d, err := openDisk(m.disk(disk))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var out []int64
	a, b := make([]byte, cluster), make([]byte, cluster)
	for word := range strings.FieldsSeq(text) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("debugfs printed %q", word)
		}
		if _, err := want.ReadAt(a, int64(len(out))*cluster); errors.Is(err, io.EOF) {
			break // a last cluster that is not full counts for nothing here
		} else if err != nil {
			return nil, err
		}
		if _, err := d.ReadAt(b, n*cluster); err != nil {
			return nil, err
		}
		if bytes.Equal(a, b) {
			out = append(out, n)
		}
	}
	if int64(len(out)) < m.size/cluster-1 {
		return nil, fmt.Errorf("found %d clusters of the large file", len(out))
	}
	return out, nil
}

// change writes to a disk.
func (m *maker) change(disk string, f func(w *os.File) error) error {
	w, err := os.OpenFile(m.disk(disk), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f(w), w.Close())
}

func (m *maker) oneByte(ctx context.Context, disk string) error {
	blocks, err := m.bigBlocks(ctx, disk)
	if err != nil {
		return err
	}
	return m.change(disk, func(w *os.File) error {
		var b [1]byte
		at := blocks[len(blocks)/2]*cluster + 123
		if _, err := w.ReadAt(b[:], at); err != nil {
			return err
		}
		b[0] ^= 1
		_, err := w.WriteAt(b[:], at)
		return err
	})
}

func (m *maker) clusters(ctx context.Context, disk string) error {
	blocks, err := m.bigBlocks(ctx, disk)
	if err != nil {
		return err
	}
	c := newContent(2)
	c.r.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	return m.change(disk, func(w *os.File) error {
		for i, n := range blocks[:len(blocks)/20] {
			b := c.text(cluster)
			if i%2 == 0 {
				b = c.random(cluster)
			}
			if _, err := w.WriteAt(b, n*cluster); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *maker) moved(ctx context.Context, disk string) error {
	name := m.short(m.disk(disk))
	for _, words := range []string{"write " + filepath.Join(treeFolder, bigFile) + " moved", "rm /" + bigFile} {
		if err := m.tool(ctx, "debugfs", "-w", "-R", words, name); err != nil {
			return err
		}
	}
	return m.tool(ctx, "e2fsck", "-fy", name)
}

func (m *maker) grown(ctx context.Context, disk string) error {
	if err := os.Truncate(m.disk(disk), m.diskBytes()*3/2); err != nil {
		return err
	}
	name := m.short(m.disk(disk))
	if err := m.tool(ctx, "e2fsck", "-fy", name); err != nil {
		return err
	}
	return m.tool(ctx, "resize2fs", name)
}

func (m *maker) upgraded(ctx context.Context, disk string) error {
	name := m.short(m.disk(disk))
	for _, c := range [][]string{
		{"tune2fs", "-O", "extent,uninit_bg,dir_index,flex_bg,large_file,huge_file,dir_nlink,extra_isize", name},
		{"e2fsck", "-fyD", name},
		{"tune2fs", "-O", "metadata_csum", name},
		{"e2fsck", "-fyD", name},
		{"resize2fs", "-b", name},
		{"e2fsck", "-fy", name},
	} {
		if err := m.tool(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}
