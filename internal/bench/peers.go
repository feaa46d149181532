package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A pair is two versions of a disk, as other programs get them. The files are in disksFolder, by name.
type pair struct {
	t        *table
	disks    versionPair
	trimmed  versionPair // with free space discarded; empty: there are none
	small    bool        // so small that packing well takes no time to speak of
	thorough bool        // it is worth while to pack as well as can be
	first    bool        // of several pairs of a disk: the one that all peers get
}

// versionPair is the old and the new file.
type versionPair struct{ old, new string }

// form says which files a peer gets.
type form int

const (
	raw     form = iota // the disks as they are
	bothRaw             // with free space discarded where there are such files; with --all both, and each is a row
	packed              // their used clusters, one behind the other
)

// A peer is another program, used in one way.
type peer struct {
	tool  string // that must be installed
	name  string
	form  form
	small bool // only for small disks
	// thorough is for packing as well as can be, which takes long.
	thorough bool
	often    bool // for every pair, not only the first
	bring    func(ctx context.Context, b *bench, old, new string) (result, error)
}

// peers are all that are compared with, in the order of the tables.
func peers() []peer {
	return []peer{
		{tool: "rsync", name: "rsync -z --zc=zstd", form: raw, often: true, bring: rsync("-z", "--zc=zstd")},
		{tool: "rsync", name: "rsync -B 4096 -z --zc=zstd --zl=9", form: bothRaw, often: true, bring: rsync("-B", "4096", "-z", "--zc=zstd", "--zl=9")},
		{tool: "casync", name: "casync", form: bothRaw, bring: casyncWords.bring},
		{tool: "desync", name: "desync", form: bothRaw, bring: desyncWords.bring},
		{tool: "zsync", name: "zsync", form: bothRaw, bring: zsync},
		{tool: "xdelta3", name: "xdelta3 -1", form: bothRaw, bring: xdelta("-1")},
		{tool: "xdelta3", name: "xdelta3 -9", form: bothRaw, small: true, bring: xdelta("-9")},
		{tool: "zstd", name: "zstd -3 --patch-from", form: packed, bring: patchFrom("-3")},
		{tool: "zstd", name: "zstd -9 --patch-from", form: packed, often: true, bring: patchFrom("-9")},
		{tool: "zstd", name: "zstd -19 --patch-from", form: packed, small: true, thorough: true, bring: patchFrom("-19")},
	}
}

// plays reports whether a program takes part.
func (b *bench) plays(tool string) bool {
	return installed(tool) && (len(b.opts.peers) == 0 || slices.Contains(b.opts.peers, tool))
}

// installed reports whether there is such a program.
func installed(tool string) bool {
	_, err := exec.LookPath(tool)
	return err == nil
}

// comparePeers has every peer bring the new version to where the old one is, and compares the result byte by byte.
func (b *bench) comparePeers(ctx context.Context, p pair) error {
	for _, q := range peers() {
		if q.small && !p.small || q.thorough && !p.thorough || !q.often && !p.first && !b.opts.all {
			continue
		}
		gets := []versionPair{p.disks}
		if p.trimmed != (versionPair{}) && q.form != raw {
			gets = []versionPair{p.trimmed}
			if q.form == bothRaw && b.opts.all {
				gets = []versionPair{p.disks, p.trimmed}
			}
		}
		for _, disks := range gets {
			if err := b.comparePeer(ctx, p, q, disks); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) comparePeer(ctx context.Context, p pair, q peer, disks versionPair) error {
	name := q.name
	switch {
	case q.form == packed:
		name += ", used clusters only"
	case disks == p.trimmed:
		name += ", free space discarded"
	}
	if !b.plays(q.tool) {
		return nil
	}
	r := p.t.row(name)
	r.partly = q.form == packed
	if r.failed != "" {
		return nil // it will not be better this time
	}
	b.say("%s: %s", p.t.title, name)
	old, newer := filepath.Join(disksFolder, disks.old), filepath.Join(disksFolder, disks.new)
	if q.form == packed {
		old, newer = packedName(old), packedName(newer)
	}
	res, err := q.bring(ctx, b, old, newer)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.say("%s: %v", name, err)
		r.fail(err)
		return b.remove(peerOut, peerPatch)
	}
	r.add(res)
	return nil
}

// packedName is what the file with the used clusters of a disk is called.
func packedName(disk string) string { return strings.TrimSuffix(disk, ".raw") + ".packed" }

const (
	peerOut   = "peer.raw"   // what a peer made
	peerPatch = "peer.patch" // what it needs for that
)

// done compares what a peer made, and removes it.
func (b *bench) done(newer string, files ...string) error {
	if err := sameFile(b.at(peerOut), b.at(newer)); err != nil {
		return err
	}
	return b.remove(append(files, peerOut)...)
}

// startRsync starts a daemon with the disks.
func (b *bench) startRsync(ctx context.Context) error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(address)
	conf := "use chroot = false\nread only = true\n"
	if os.Getuid() == 0 {
		conf += "uid = 0\ngid = 0\n"
	}
	// The daemon follows no links out of its folders, so the user's disks have a folder of their own there.
	for module, dir := range map[string]string{disksFolder: b.at(disksFolder), workModule: b.opts.work} {
		if dir != "" {
			conf += fmt.Sprintf("[%s]\npath = %s\n", module, dir)
		}
	}
	const confName = "rsyncd.conf"
	if err := os.WriteFile(b.at(confName), []byte(conf), 0o600); err != nil {
		return err
	}
	b.daemon, err = b.serve(ctx, address, command{program: "rsync",
		args: []string{"--daemon", "--no-detach", "--address=127.0.0.1", "--port=" + port, "--config=" + confName}})
	if err != nil {
		return err
	}
	b.secrets = append(b.secrets, "--port="+port, "--port=$PORT")
	if err := b.connect(b.daemon, address); err != nil {
		return err
	}
	b.secrets = append(b.secrets, b.daemon.line.address(), "$RSYNC")
	return nil
}

// workModule is what the daemon calls the folder with the user's disks.
const workModule = "work"

// answers reports whether somebody listens.
func answers(address string) bool {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// rsync changes a copy of the old disk in place.
func rsync(flags ...string) func(context.Context, *bench, string, string) (result, error) {
	return func(ctx context.Context, b *bench, old, newer string) (r result, err error) {
		if err := copyDisk(b.at(old), b.at(peerOut)); err != nil {
			return r, err
		}
		args := append([]string{"--inplace", "--no-whole-file", "--ignore-times"}, flags...)
		served := newer
		if info, err := os.Lstat(b.at(newer)); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			served = filepath.Join(workModule, filepath.Base(newer))
		}
		args = append(args, "rsync://"+b.daemon.line.address()+"/"+served, peerOut)
		r.update, err = b.run(ctx, command{program: "rsync", args: args, server: b.daemon, makes: []string{peerOut}, peer: true})
		if err != nil {
			return r, err
		}
		r.fetched = r.update.wire
		if r.stored, err = b.onDisk(newer); err != nil {
			return r, err
		}
		return r, b.done(newer)
	}
}

// onDisk returns how much of the disk a file takes, or all files in a folder.
func (b *bench) onDisk(name string) (n int64, err error) {
	root, err := filepath.EvalSymlinks(b.at(name))
	if err != nil {
		return 0, err
	}
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += allocated(info)
		}
		return err
	})
	return n, err
}

// xdelta makes a patch. It is allowed to look for what it knows in all of the old disk, as far as it can.
func xdelta(level string) func(context.Context, *bench, string, string) (result, error) {
	const maxWindow = 1 << 30
	return func(ctx context.Context, b *bench, old, newer string) (r result, err error) {
		info, err := os.Stat(b.at(old))
		if err != nil {
			return r, err
		}
		window := 1 << 20
		for int64(window) < info.Size() && window < maxWindow {
			window *= 2
		}
		at := []string{"-B", strconv.Itoa(window), "-f", "-s"}
		r.prepare, err = b.run(ctx, command{program: "xdelta3", makes: []string{peerPatch}, peer: true,
			args: append(append([]string{"-e", level}, at...), old, newer, peerPatch)})
		if err != nil {
			return r, err
		}
		r.update, err = b.run(ctx, command{program: "xdelta3", makes: []string{peerOut}, peer: true,
			args: append(append([]string{"-d"}, at...), old, peerPatch, peerOut)})
		if err != nil {
			return r, err
		}
		return r, b.patched(&r, newer, peerPatch)
	}
}

// patched notes the size of patches and compares what came of them.
func (b *bench) patched(r *result, newer string, patches ...string) error {
	for _, p := range patches {
		info, err := os.Stat(b.at(p))
		if err != nil {
			return err
		}
		r.fetched += info.Size()
	}
	r.stored = r.fetched
	return b.done(newer, patches...)
}

// patchMax is the most that zstd makes a patch for, and of.
const patchMax = 2<<30 - 1<<20

// patchFrom makes patches for the used clusters of a disk: one, or as many as zstd needs it cut into.
func patchFrom(level string) func(context.Context, *bench, string, string) (result, error) {
	return func(ctx context.Context, b *bench, old, newer string) (r result, err error) {
		if info, err := os.Stat(b.at(old)); err != nil {
			return r, err
		} else if info.Size() > patchMax {
			return r, fmt.Errorf("takes no old version above 2 GiB")
		}
		pieces, err := split(b.at(newer), patchMax)
		if err != nil {
			return r, err
		}
		for _, piece := range pieces {
			s, err := b.run(ctx, command{program: "zstd", makes: []string{peerPatch}, peer: true,
				args: []string{level, "--long=31", "-q", "-f", "--patch-from=" + old, b.short(piece), "-o", peerPatch}})
			if err != nil {
				return r, err
			}
			r.prepare = r.prepare.plus(s)
			s, err = b.run(ctx, command{program: "zstd", makes: []string{peerOut}, peer: true,
				args: []string{"-d", "--long=31", "-q", "-f", "--patch-from=" + old, peerPatch, "-o", peerOut}})
			if err != nil {
				return r, err
			}
			r.update = r.update.plus(s)
			if err := b.patched(&r, b.short(piece), peerPatch); err != nil {
				return r, err
			}
			if len(pieces) > 1 {
				if err := os.Remove(piece); err != nil {
					return r, err
				}
			}
		}
		return r, nil
	}
}

// short returns the path of a file from the work folder.
func (b *bench) short(name string) string { return strings.TrimPrefix(name, b.dir+"/") }
