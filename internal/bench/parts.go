package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"disksync/image"
	"disksync/internal/durable"
	"disksync/layer"
)

// Some things are measured that no program at hand does alone, or needs a server. Then this program runs itself, with asPart before
// the part's name, so that these too are processes of their own.
const (
	asPart     = "part"
	partWeb    = "web"    // FOLDER: a web server
	partRead   = "read"   // FILE...: reads
	partUnpack = "unpack" // LAYER: unpacks the frames of a full image, on all cores, and compares nothing
	partHash   = "hash"   // LAYER: SHA-256 of as many blocks as the layer has, on all cores
	partVast   = "vast"   // FOLDER BYTES: two versions of a disk that is computed, as files, until it is interrupted
	partWrite  = "write"  // LAYER TO: writes as many blocks straight to a new file, and waits for the disk
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
	case partWrite, partVast:
		if len(args) != 2 {
			return errors.New("wrong usage")
		}
		if name == partVast {
			return serveVast(args[0], args[1])
		}
		return writeAll(args[0], args[1])
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

// openLayer opens a layer file.
func openLayer(name string) (disk, *layer.Index, error) {
	d, err := openDisk(name)
	if err != nil {
		return d, nil, err
	}
	x, err := layer.ReadIndex(d, d.size)
	if err != nil {
		d.Close()
	}
	return d, x, err
}

func unpackAll(name string) error {
	d, x, err := openLayer(name)
	if err != nil {
		return err
	}
	defer d.Close()
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

// hashAll hashes the same blocks over and over: what is in them makes no difference, and where they come from is another part.
func hashAll(name string) error {
	d, x, err := openLayer(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return onAllCores(x.Len(), func(_ int, b *buffers) error {
		sha256.Sum256(b.block)
		return nil
	})
}

// writeAll writes noise, which no disk makes less of.
func writeAll(name, to string) error {
	d, x, err := openLayer(name)
	if err != nil {
		return err
	}
	defer d.Close()
	fsys, err := durable.Dir(filepath.Dir(to))
	if err != nil {
		return err
	}
	f, err := fsys.Create(filepath.Base(to), 0o600)
	if err != nil {
		return err
	}
	f.Direct()
	noise := make([]byte, image.BlockSize)
	rand.NewChaCha8([32]byte{}).Read(noise)
	for i := 0; i < x.Len() && err == nil; i++ {
		_, err = f.WriteAt(noise, int64(i)*image.BlockSize)
	}
	return errors.Join(err, f.Sync(), f.Close())
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
