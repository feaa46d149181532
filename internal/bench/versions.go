package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
)

const (
	goldenImage = "golden"
	mediumDir   = "stick"
	// spacePerData is how many times the data of the largest version is in the work folder at once: packed clusters of three
	// versions, two stores of casync, the laptop's disks, what a peer makes.
	spacePerData = 6
)

// versionTables are the tables of a disk in three versions.
type versionTables struct {
	publish, deploy, one, two, three *table
}

// versions compares with the disk in the folder that the user has named.
func (b *bench) versions(ctx context.Context) error {
	about, err := b.linkDisks()
	if err != nil {
		return err
	}
	intro := b.table(noTable, "A disk in three versions", about...)
	t := versionTables{
		b.table(publishes, "Publishing version 1"),
		b.table(deploys, "Deploying version 1 from a stick", deployWords...),
		b.table(updates, "Update from version 1 to 2"),
		b.table(updates, "Update from version 2 to 3"),
		b.table(updates, "Update from version 1 to 3"),
	}
	t.deploy.ours(coldName)
	t.deploy.ours(warmName) // before the floors, which are measured in between
	b.section = intro
	for _, v := range []string{"v1", "v2", "v3"} {
		b.say("packing the used clusters of %s", v)
		name := b.lean(v)
		if _, err := pack(b.at(filepath.Join(disksFolder, name)), b.at(packedName(filepath.Join(disksFolder, name)))); err != nil {
			return err
		}
	}
	for run := range b.opts.runs {
		b.say("run %d of %d: %s", run+1, b.opts.runs, b.opts.work)
		if err := b.oursVersions(ctx, t); err != nil {
			return err
		}
		if err := b.ours.forget(ctx, goldenImage); err != nil {
			return err
		}
		if err := b.peersVersions(ctx, t); err != nil {
			return err
		}
		if err := b.remove(exported); err != nil {
			return err
		}
	}
	for _, v := range []string{"v1", "v2", "v3"} {
		if err := b.remove(packedName(filepath.Join(disksFolder, b.lean(v)))); err != nil {
			return err
		}
	}
	return nil
}

// linkDisks gives the disks short names, and says what they are.
func (b *bench) linkDisks() (about []string, err error) {
	var most int64
	for _, name := range []string{"v1.raw", "v2.raw", "v3.raw", "v2t.raw", "v3t.raw"} {
		from, err := filepath.Abs(filepath.Join(b.opts.work, name))
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) && len(name) == len("v2t.raw") {
			continue // then there are none without free space
		}
		if err != nil {
			return nil, err
		}
		if err := os.Symlink(from, b.at(filepath.Join(disksFolder, name))); err != nil {
			return nil, err
		}
		most = max(most, allocated(info))
		about = append(about, fmt.Sprintf("`%s` has %s, of which %s hold something.", name, size(info.Size()), size(allocated(info))))
	}
	about = append([]string{"The disks are those of whoever ran this; a page made with other disks has other figures."}, about...)
	if b.trimmed("v2") != "" {
		about = append(about, "`v2t.raw` and `v3t.raw` are `v2.raw` and `v3.raw` with free space discarded, as by `fstrim`.")
	}
	return about, b.free(spacePerData * most)
}

// trimmed returns the file of a version with its free space discarded, or nothing where there is none.
func (b *bench) trimmed(v string) string {
	if _, err := os.Stat(b.at(filepath.Join(disksFolder, v+"t.raw"))); err != nil {
		return ""
	}
	return v + "t.raw"
}

// lean returns the file of a version that has the least in it.
func (b *bench) lean(v string) string {
	if t := b.trimmed(v); t != "" {
		return t
	}
	return v + ".raw"
}

// disk returns the path of a version as it is.
func versionDisk(v int) string { return filepath.Join(disksFolder, "v"+strconv.Itoa(v)+".raw") }

// oursVersions publishes the versions and brings them to laptops on all ways.
func (b *bench) oursVersions(ctx context.Context, t versionTables) error {
	var made [3]result // what publishing each version took
	for i, where := range []*table{t.publish, t.one, t.two} {
		b.section = where
		b.say("disksync: publishing version %d", i+1)
		s, d, err := b.ours.publish(ctx, goldenImage, versionDisk(i+1))
		if err != nil {
			return err
		}
		made[i] = result{prepare: s, stored: d.Bytes}
	}
	b.section = t.publish
	t.publish.ours(oursName).add(made[0])
	files, err := b.ours.writeMedium(ctx, goldenImage, mediumDir)
	if err != nil {
		return err
	}
	if err := b.deployments(ctx, t, files, made); err != nil {
		return err
	}
	return b.remove(mediumDir)
}

// oursName is what this project is called in the tables.
const oursName = "disksync"

// deployments deploys version 1 from the medium, which the system remembers or does not, and brings each laptop on.
func (b *bench) deployments(ctx context.Context, t versionTables, medium []string, made [3]result) error {
	for _, l := range []struct {
		deploys string
		skips   string // how it goes on to version 3; empty: over version 2, step by step
	}{{coldName, ""}, {warmName, overName}, {warmName, directName}} {
		if err := b.deployment(ctx, t, medium, made, l.deploys, l.skips); err != nil {
			return err
		}
	}
	return nil
}

// deployment is what one laptop goes through.
func (b *bench) deployment(ctx context.Context, t versionTables, medium []string, made [3]result, deploys, skips string) error {
	b.section = t.deploy
	if err := readOrForget(medium, deploys == coldName); err != nil {
		return err
	}
	l, err := b.ours.laptop(ctx, goldenImage)
	if err != nil {
		return err
	}
	b.say("disksync: deploying from a stick")
	s, rc, err := l.deploy(ctx, 1, "--media", mediumDir)
	if err != nil {
		return err
	}
	if rc.Bytes[deploy.Network] > 0 {
		return fmt.Errorf("%d bytes of a deployment from a stick came over the network", rc.Bytes[deploy.Network])
	}
	t.deploy.ours(deploys).add(result{update: s, fetched: s.wire})
	if skips == "" {
		err = b.stepByStep(ctx, t, l, made)
	} else {
		err = b.skip(ctx, t.three, l, skips)
	}
	if err != nil {
		return err
	}
	return l.close()
}

const (
	coldName   = oursName + ", the stick's files on the disk"
	warmName   = oursName + ", the stick's files in memory"
	overName   = oursName + ", over version 2"
	directName = oursName + ", with image squash"
)

// readOrForget puts files into the system's memory, or out of it.
func readOrForget(files []string, forget bool) error {
	for _, name := range files {
		if !forget {
			if err := readAll(name); err != nil {
				return err
			}
			continue
		}
		if err := flush(name); err != nil { // what is not on the disk yet cannot be forgotten
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(dropCache(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// stepByStep checks version 1, and keeps it as the measure for floors; then come versions 2 and 3.
func (b *bench) stepByStep(ctx context.Context, t versionTables, l *laptop, made [3]result) error {
	if err := l.check(ctx, versionDisk(1), true); err != nil {
		return err
	}
	if err := b.floors(ctx, t.deploy); err != nil {
		return err
	}
	for i, where := range []*table{t.one, t.two} {
		b.section = where
		r := made[i+1]
		if err := b.bringTo(ctx, l, where.ours(oursName), &r, i+2); err != nil {
			return err
		}
	}
	return nil
}

// bringTo brings a version to a laptop, checks it, and notes what that took.
func (b *bench) bringTo(ctx context.Context, l *laptop, to *row, r *result, version int) error {
	b.say("disksync: updating to version %d", version)
	_, err := b.updateAndCheck(ctx, l, r, versionDisk(version), image.Version(version))
	to.add(*r)
	return err
}

// updateAndCheck brings a version to a laptop and compares it with the disk that was published.
func (b *bench) updateAndCheck(ctx context.Context, l *laptop, r *result, disk string, v image.Version) (rc endpoint.Receipt, err error) {
	if r.update, rc, err = l.update(ctx, v); err != nil {
		return rc, err
	}
	r.fetched = r.update.wire
	if err := agree(rc, r.update); err != nil {
		return rc, err
	}
	return rc, l.check(ctx, disk, false)
}

// agree compares what an endpoint says that went over its line with what did. What comes behind the last answer, such as
// the words with which TLS says good-bye, the endpoint cannot know any more.
func agree(rc endpoint.Receipt, s sample) error {
	const goodbye = 4 << 10
	if d := s.wire - rc.Wire; d < -goodbye || d > goodbye {
		return fmt.Errorf("%d bytes went over the line, and the receipt says %d", s.wire, rc.Wire)
	}
	return nil
}

// skip brings a laptop from version 1 to 3, over version 2 or with a layer that was made for that.
func (b *bench) skip(ctx context.Context, t *table, l *laptop, name string) error {
	b.section = t
	var r result
	if name == directName {
		b.say("disksync: squashing")
		s, q, err := b.ours.squash(ctx, goldenImage, 1, 3)
		if err != nil {
			return err
		}
		r.prepare, r.stored = s, q.Bytes
	}
	return b.bringTo(ctx, l, t.ours(name), &r, 3)
}

// peersVersions has the peers bring the same versions.
func (b *bench) peersVersions(ctx context.Context, t versionTables) error {
	b.section = t.publish
	if err := b.peersPublish(ctx, t.publish); err != nil {
		return err
	}
	trimmed := func(old, newer string) versionPair {
		if b.trimmed(newer) == "" {
			return versionPair{}
		}
		return versionPair{b.lean(old), b.trimmed(newer)}
	}
	for _, p := range []pair{
		{t: t.one, disks: versionPair{"v1.raw", "v2.raw"}, trimmed: trimmed("v1", "v2"), first: true},
		{t: t.two, disks: versionPair{"v2.raw", "v3.raw"}, trimmed: trimmed("v2", "v3")},
		{t: t.three, disks: versionPair{"v1.raw", "v3.raw"}, trimmed: trimmed("v1", "v3")},
	} {
		b.section = p.t
		if err := b.comparePeers(ctx, p); err != nil {
			return err
		}
	}
	return b.clearWeb()
}

// clearWeb removes what is on the web server.
func (b *bench) clearWeb() error {
	entries, err := os.ReadDir(b.at(webFolder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := b.remove(filepath.Join(webFolder, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// peersPublish has the peers pack the first version.
func (b *bench) peersPublish(ctx context.Context, t *table) error {
	disk := versionDisk(1)
	for _, c := range []struct {
		tool, name, made string
		args             []string
	}{
		{"qemu-img", "qemu-img convert -c, qcow2 with zstd", "v1.qcow2",
			[]string{"convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", disk, "v1.qcow2"}},
		{"zstd", "zstd -3 -T0", "v1.raw.zst", []string{"-3", "-T0", "-q", "-f", disk, "-o", "v1.raw.zst"}},
	} {
		if !b.plays(c.tool) || t.row(c.name).failed != "" {
			continue
		}
		b.say("%s: %s", t.title, c.name)
		s, err := b.run(ctx, command{program: c.tool, args: c.args, makes: []string{c.made}, peer: true})
		if err := b.stored(ctx, t.row(c.name), s, err, c.made); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name string
		aChunker
	}{{"casync make", casyncWords}, {"desync make", desyncWords}} {
		if !b.plays(c.program) || t.row(c.name).failed != "" {
			continue
		}
		b.say("%s: %s", t.title, c.name)
		s, err := c.make(ctx, b, disk)
		store, index := c.place(disk)
		if err := b.stored(ctx, t.row(c.name), s, err, store, index); err != nil {
			return err
		}
	}
	return b.remove("v1.qcow2", "v1.raw.zst")
}

// stored notes what a peer made of the first version, or why it did not.
func (b *bench) stored(ctx context.Context, r *row, s sample, err error, names ...string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		r.fail(err)
		return nil
	}
	res := result{prepare: s}
	for _, n := range names {
		size, err := b.onDisk(n)
		if err != nil {
			return err
		}
		res.stored += size
	}
	r.add(res)
	return nil
}
