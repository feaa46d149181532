package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// Peers that fetch pieces from a web server.

// onWeb returns the address of a file on the web server.
func (b *bench) onWeb(name string) string {
	return "http://" + b.web.line.address() + "/" + strings.TrimPrefix(name, webFolder+"/")
}

// aChunker is casync or desync: they have the same formats, and different words.
type aChunker struct {
	program string
	ending  string // of the store's folder
	put     func(store, index, disk string) []string
	get     func(b *bench, store, index, seed string) []string
}

var (
	casyncWords = aChunker{"casync", ".castr",
		func(store, index, disk string) []string { return []string{"make", "--store=" + store, index, disk} },
		func(b *bench, store, index, seed string) []string {
			return []string{"extract", "--store=" + b.onWeb(store), "--seed=" + seed, b.onWeb(index), peerOut}
		}}
	desyncWords = aChunker{"desync", ".store",
		func(store, index, disk string) []string { return []string{"make", "-s", store, index, disk} },
		func(b *bench, store, index, seed string) []string {
			return []string{"extract", "-s", b.onWeb(store), "--seed", seed, b.onWeb(index), peerOut}
		}}
)

// place returns where a disk's store and index are.
func (c aChunker) place(disk string) (store, index string) {
	base := filepath.Join(webFolder, c.program+"-"+strings.TrimSuffix(filepath.Base(disk), ".raw"))
	return base + c.ending, base + ".caibx"
}

// make puts a disk into a store.
func (c aChunker) make(ctx context.Context, b *bench, disk string) (sample, error) {
	store, index := c.place(disk)
	if err := os.MkdirAll(b.at(store), 0o700); err != nil {
		return sample{}, err
	}
	return b.run(ctx, command{program: c.program, args: c.put(store, index, disk), peer: true, makes: []string{store, index}})
}

// bring puts the new disk into a store that has the old one, and fetches it with the old one as a seed.
func (c aChunker) bring(ctx context.Context, b *bench, old, newer string) (r result, err error) {
	oldStore, oldIndex := c.place(old)
	if _, err := os.Stat(b.at(oldIndex)); err != nil {
		if _, err := c.make(ctx, b, old); err != nil {
			return r, err
		}
	}
	store, index := c.place(newer)
	if err := b.remove(store, index); err != nil {
		return r, err
	}
	// Links take no space, and chunks are never changed.
	if err := linkAll(b.at(oldStore), b.at(store)); err != nil {
		return r, err
	}
	before, err := b.onDisk(store)
	if err != nil {
		return r, err
	}
	if r.prepare, err = c.make(ctx, b, newer); err != nil {
		return r, err
	}
	after, err := b.onDisk(store)
	if err != nil {
		return r, err
	}
	size, err := b.onDisk(index)
	if err != nil {
		return r, err
	}
	r.stored = after - before + size
	seed := old
	if c.program == "desync" {
		seed = oldIndex // and the disk beside it
		if err := b.remove(strings.TrimSuffix(oldIndex, ".caibx")); err != nil {
			return r, err
		}
		if err := os.Symlink(b.at(old), b.at(strings.TrimSuffix(oldIndex, ".caibx"))); err != nil {
			return r, err
		}
	}
	r.update, err = b.run(ctx, command{program: c.program, server: b.web, peer: true, makes: []string{peerOut},
		args: c.get(b, store, index, seed)})
	if err != nil {
		return r, err
	}
	r.fetched = r.update.wire
	return r, b.done(newer)
}

// linkAll makes a folder with links to all files of another.
func linkAll(from, to string) error {
	return filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return os.Link(p, filepath.Join(to, rel))
	})
}

// zsync reads check sums of the new disk and fetches what it does not find in the old one.
func zsync(ctx context.Context, b *bench, old, newer string) (r result, err error) {
	served := filepath.Join(webFolder, filepath.Base(newer))
	sums := served + ".zsync"
	if err := b.remove(served, sums); err != nil {
		return r, err
	}
	if err := os.Symlink(b.at(newer), b.at(served)); err != nil {
		return r, err
	}
	r.prepare, err = b.run(ctx, command{program: "zsyncmake", peer: true, makes: []string{sums},
		args: []string{"-u", filepath.Base(newer), "-o", sums, newer}})
	if err != nil {
		return r, err
	}
	r.update, err = b.run(ctx, command{program: "zsync", server: b.web, peer: true, makes: []string{peerOut},
		args: []string{"-q", "-i", old, "-o", peerOut, b.onWeb(sums)}})
	if err != nil {
		return r, err
	}
	r.fetched = r.update.wire
	for _, name := range []string{served, sums} {
		n, err := b.onDisk(name)
		if err != nil {
			return r, err
		}
		r.stored += n
	}
	return r, b.done(newer, served, sums, peerOut+".part")
}
