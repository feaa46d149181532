package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"disksync/image"
	"disksync/layer"
)

// Some things are measured that no program at hand does alone, or needs a server. Then this program runs itself, with asPart before
// the part's name, so that these too are processes of their own.
const (
	asPart     = "part"
	partWeb    = "web"    // FOLDER: a web server
	partRead   = "read"   // FILE...: reads
	partUnpack = "unpack" // LAYER: unpacks the frames of a full image, on all cores, and compares nothing
	partHash   = "hash"   // DISK: SHA-256 of each block that is not zeros, on all cores
	partWrite  = "write"  // DISK TO: writes what is not zeros to a new file, and waits for the disk
)

// part is one of them.
func part(args []string) error {
	if len(args) < 2 {
		return errors.New("wrong usage")
	}
	switch name, args := args[0], args[1:]; name {
	case partWeb:
		return serveFolder(args[0])
	case partRead:
		for _, a := range args {
			if err := readAll(a); err != nil {
				return err
			}
		}
		return nil
	case partUnpack:
		return unpackAll(args[0])
	case partHash:
		return hashAll(args[0])
	case partWrite:
		if len(args) != 2 {
			return errors.New("wrong usage")
		}
		if err := copyDisk(args[0], args[1]); err != nil {
			return err
		}
		return flush(args[1])
	}
	return fmt.Errorf("there is no part %q", args[0])
}

func readAll(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, pieceBytes)
	for {
		if _, err := f.Read(b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func unpackAll(name string) error {
	d, err := openDisk(name)
	if err != nil {
		return err
	}
	defer d.Close()
	x, err := layer.ReadIndex(d, d.size)
	if err != nil {
		return err
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(cores()), zstd.WithDecoderMaxWindow(image.BlockSize))
	if err != nil {
		return err
	}
	defer z.Close()
	return onAllCores(x.Len(), func(i int, b *buffers) error {
		f := x.Frame(i)
		packed := b.packed[:f.Length]
		if _, err := d.ReadAt(packed, f.Offset); err != nil {
			return err
		}
		if f.Codec != layer.Zstd {
			return nil
		}
		_, err := z.DecodeAll(packed, b.block[:0])
		return err
	})
}

func hashAll(name string) error {
	d, err := openDisk(name)
	if err != nil {
		return err
	}
	defer d.Close()
	used := map[int]bool{}
	err = usedClusters(name, func(off int64, _ []byte) error {
		used[int(off/image.BlockSize)] = true
		return nil
	})
	if err != nil {
		return err
	}
	return onAllCores(int((d.size+image.BlockSize-1)/image.BlockSize), func(i int, b *buffers) error {
		if !used[i] {
			return nil
		}
		n, err := d.ReadAt(b.block, int64(i)*image.BlockSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(b.block[n:])
		sha256.Sum256(b.block)
		return nil
	})
}

// buffers are what one core works with.
type buffers struct{ packed, block []byte }

// onAllCores calls f for 0 to n-1, on all cores.
func onAllCores(n int, f func(i int, b *buffers) error) error {
	pool := sync.Pool{New: func() any { return &buffers{make([]byte, image.BlockSize), make([]byte, image.BlockSize)} }}
	var g errgroup.Group
	g.SetLimit(cores())
	for i := range n {
		g.Go(func() error {
			b := pool.Get().(*buffers)
			defer pool.Put(b)
			return f(i, b)
		})
	}
	return g.Wait()
}
