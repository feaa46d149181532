package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"disksync/image"
	"disksync/layer"
	"disksync/publish"
)

// largeCase is the name of this measurement among the cases.
const largeCase = "large"

// largeTitle is its section of the page.
const largeTitle = "A large disk"

const (
	// largeDefault is the size of the disk where nobody says another one.
	largeDefault = 256 << 30
	// largeBeside is that of the disk which it is compared with; a quarter of it where it is smaller than that.
	largeBeside = 4 << 30

	vastFolder     = "vast"       // where the versions are
	largeData      = "large-data" // the Synchronizer's folder
	largeScratch   = "large-scratch"
	largeImage     = "large"
	largeRoomRatio = 40 // a disk is so many times as large as what is needed in the work folder: layers, and blocks unpacked meanwhile
)

// large measures what publishing a disk takes that is larger than any memory.
func (b *bench) large(ctx context.Context) error {
	if _, err := os.Stat("/dev/fuse"); err != nil || !installed("fusermount3") {
		b.table(noTable, largeTitle, "Left out: there is no FUSE here, or no fusermount3.")
		return nil
	}
	small := min(largeBeside, b.opts.large/4)
	b.table(noTable, largeTitle, largeAbout(b.opts.large, small))
	if err := b.free(b.opts.large/largeRoomRatio + 1<<30); err != nil {
		return err
	}
	t := b.table(publishes, "Publishing a large disk")
	for _, n := range []int64{small, b.opts.large} {
		if err := b.largeDisk(ctx, t, n); err != nil {
			return fmt.Errorf("a disk of %s: %w", size(n), err)
		}
	}
	t.after = []string{largeVerdict(t.rows)}
	return nil
}

func largeAbout(large, small int64) string {
	v := vast{large, 1}
	changed := 0
	for i := range v.blocks() {
		if v.changed(i) {
			changed++
		}
	}
	return fmt.Sprintf("A disk of %s is published, then a second version of it in which %d of its %d blocks of 2 MiB are others: an eighth of such a block "+
		"is new and random, an eighth was elsewhere on the disk, in an eighth of its clusters a few bytes have changed. The same is done with"+
		" a disk of %s, each with a Synchronizer that was just started. Memory should hardly depend on the size: a publisher is to need less "+
		"than 512 MiB for a disk of 4 GiB and less than 1 GiB for one of 256 GiB, since its index of similar content has a sample of a disk "+
		"that is too large for it. No cluster of the disks is zeros, and none is like another one, so that there is much to choose from; but "+
		"they pack well. With more to pack a publisher needs more, whatever the size of the disk: that is in the tables of the disk in three "+
		"versions. The disks are files whose content another process makes up as they are read, by FUSE: its processor time is not in the "+
		"figures, but it takes its share of the same cores, so time is what the whole takes here. The figures are those of one run. The "+
		"digests of both versions are compared with those of the content, made without FUSE. Of the second version all blocks that have "+
		"changed, and as many others, are unpacked from what the Synchronizer has stored, and compared byte by byte.",
		size(large), changed, v.blocks(), size(small))
}

// largeDisk measures both versions of a disk of so many bytes.
func (b *bench) largeDisk(ctx context.Context, t *table, bytes int64) (err error) {
	for _, d := range []string{vastFolder, largeScratch} {
		if err := os.Mkdir(b.at(d), 0o700); err != nil {
			return err
		}
	}
	disks, err := b.serve(ctx, "", command{program: b.self, args: []string{asPart, partVast, vastFolder, strconv.FormatInt(bytes, 10)}})
	if err != nil {
		return err
	}
	o, err := b.startOurs(ctx, largeData)
	if err != nil {
		return err
	}
	var made [2]publish.DiskResult
	for i := range made {
		b.say("%s: publishing version %d of %s", largeTitle, i+1, size(bytes))
		s, d, err := o.publish(ctx, largeImage, filepath.Join(vastFolder, vastDisk(i+1)))
		if err != nil {
			return err
		}
		made[i] = d
		t.ours(fmt.Sprintf("%s, %s, version %d", oursName, size(bytes), i+1)).add(result{prepare: s, stored: d.Bytes})
	}
	b.say("%s: comparing the digests of %s, and blocks of version 2", largeTitle, size(bytes))
	err = b.checkLarge(ctx, o, vast{bytes, 2}, made)
	return errors.Join(err, o.server.stop(), disks.stop(), b.remove(largeData, largeScratch), os.Remove(b.at(vastFolder)))
}

// checkLarge compares what was published, and what the Synchronizer has stored of it, with what the disk should be.
func (b *bench) checkLarge(ctx context.Context, o *ours, want vast, made [2]publish.DiskResult) error {
	one, two, err := want.states(ctx)
	if err != nil {
		return err
	}
	for i, st := range []image.State{one, two} {
		if made[i].State != st.ID() || made[i].Size != want.size || made[i].Freed > 0 {
			return fmt.Errorf("version %d was published as state %s with %d bytes, %d of them free; it has state %s and %d bytes",
				i+1, made[i].State, made[i].Size, made[i].Freed, st.ID(), want.size)
		}
	}
	var path []layer.Source
	for _, d := range made {
		f, x, err := openLayer(filepath.Join(b.at(o.data), "layers", d.Layer.String()+".dsl"))
		if err != nil {
			return err
		}
		defer f.Close()
		path = append(path, layer.Source{Index: x, R: f})
	}
	scratch, err := os.CreateTemp(b.at(largeScratch), "")
	if err != nil {
		return err
	}
	defer scratch.Close()
	r, err := layer.NewReader(path, scratch)
	if err != nil {
		return err
	}
	defer r.Close()
	return want.compare(ctx, r)
}

// largeVerdict compares the second versions of the two disks, which are the second and the fourth row.
func largeVerdict(rows []*row) string {
	of := func(i int, what func(sample) int64) int64 {
		return median(rows[i].runs, func(r result) int64 { return what(r.prepare) })
	}
	publisher := func(s sample) int64 { return s.peak }
	server := func(s sample) int64 { return s.serverPeak }
	times := func(what func(sample) int64) float64 {
		return float64(of(3, what)) / float64(cmp.Or(of(1, what), 1))
	}
	return fmt.Sprintf("For version 2 of the larger disk the publisher needed %s, which is %.2f times what it needed for the smaller one, and the "+
		"Synchronizer %s, which is %.2f times as much.", size(of(3, publisher)), times(publisher), size(of(3, server)), times(server))
}
