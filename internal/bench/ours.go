package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"disksync/api"
	"disksync/diskmap"
	"disksync/endpoint"
	"disksync/image"
	"disksync/media"
	"disksync/publish"
)

// ours is this project's Synchronizer.
type ours struct {
	*bench
	data        string // its folder
	server      *service
	fingerprint string
	password    string
	newest      map[string]string // by image: the disk that was published last
}

const (
	dataFolder = "synchronizer"
	userName   = "ann"
	laptopDir  = "laptop"
	exported   = "exported.raw"
)

// startOurs starts a Synchronizer with a folder of its own and makes a user.
func (b *bench) startOurs(ctx context.Context, data string) (*ours, error) {
	o := &ours{bench: b, data: data, password: rand.Text(), newest: map[string]string{}}
	var err error
	o.server, err = b.serve(ctx, "", o.admin("serve", "--listen", "127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	words := strings.Fields(o.server.words) // listening URL fingerprint FINGERPRINT
	if len(words) != 4 {
		return nil, fmt.Errorf("synchronizer serve printed %q", o.server.words)
	}
	if err := b.connect(o.server, strings.TrimPrefix(words[1], "https://")); err != nil {
		return nil, err
	}
	o.fingerprint = words[3]
	b.secrets = append(b.secrets, o.server.line.address(), "$SYNCHRONIZER", o.fingerprint, "$FINGERPRINT")
	add := o.admin("user", "add", userName, "--password-stdin")
	add.stdin = o.password + "\n"
	_, err = b.run(ctx, add)
	return o, err
}

// admin returns a command of the administrator, who works on the server's machine.
func (o *ours) admin(args ...string) command {
	return command{program: "synchronizer", args: append([]string{"--data", o.data}, args...), server: o.server}
}

// asJSON runs a command that prints JSON, and reads it.
func asJSON[T any](ctx context.Context, b *bench, c command) (s sample, v T, err error) {
	c.args = append(c.args, "--json")
	if s, err = b.run(ctx, c); err != nil {
		return s, v, err
	}
	if err := json.Unmarshal([]byte(s.out), &v); err != nil {
		return s, v, fmt.Errorf("read what %s printed: %w", c.program, err)
	}
	return s, v, nil
}

// publish publishes a disk as the next version of an image, with the disk before at hand, as other programs have it. The first time it gives the image to the user, and turns off what
// the Synchronizer would do by itself in the background.
func (o *ours) publish(ctx context.Context, name, disk string) (sample, publish.DiskResult, error) {
	args := []string{"image", "publish", name, "--system", disk}
	if before := o.newest[name]; before != "" {
		args = append(args, "--previous-system", before)
	}
	s, res, err := asJSON[publish.Result](ctx, o.bench, o.admin(args...))
	if err != nil {
		return s, publish.DiskResult{}, err
	}
	if len(res.Disks) != 1 || res.Unchanged {
		return s, publish.DiskResult{}, fmt.Errorf("%s was published as %d disks, unchanged: %v", disk, len(res.Disks), res.Unchanged)
	}
	o.newest[name] = disk
	if res.Version == 1 {
		for _, c := range []command{o.admin("assign", name, "--to", "user:"+userName), o.admin("image", "policy", name, "--off")} {
			if _, err := o.run(ctx, c); err != nil {
				return s, publish.DiskResult{}, err
			}
		}
	}
	return s, res.Disks[0], nil
}

// squash has a layer made that leads over versions.
func (o *ours) squash(ctx context.Context, name string, from, to image.Version) (sample, api.Squash, error) {
	s, all, err := asJSON[[]api.Squash](ctx, o.bench,
		o.admin("image", "squash", name, "--from", from.String(), "--to", to.String(), "--keep"))
	if err == nil && (len(all) != 1 || all[0].State != api.SquashStored) {
		err = fmt.Errorf("image squash made %+v", all)
	}
	if err != nil {
		return s, api.Squash{}, err
	}
	return s, all[0], nil
}

// writeMedium writes version 1 to a folder that stands for a stick, and returns its files.
func (o *ours) writeMedium(ctx context.Context, name, dir string) ([]string, error) {
	_, res, err := asJSON[media.Result](ctx, o.bench, o.admin("media", "write", "-n", name, "-v", "1", "--to", dir))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range res.Files {
		files = append(files, filepath.Join(o.at(dir), filepath.Base(f.Path)))
	}
	return files, nil
}

// forget deletes an image, so that the next run begins with nothing.
func (o *ours) forget(ctx context.Context, name string) error {
	delete(o.newest, name)
	_, err := o.quietly(ctx, "synchronizer", "--data", o.data, "image", "delete", name, "--yes")
	return err
}

// A laptop is an endpoint with a state folder of its own.
type laptop struct {
	*ours
	image string
}

// laptop makes an endpoint that has nothing yet.
func (o *ours) laptop(ctx context.Context, name string) (*laptop, error) {
	l := &laptop{o, name}
	if err := l.close(); err != nil {
		return nil, err
	}
	login := l.command("login", userName, "--password-stdin")
	login.stdin = o.password + "\n"
	for _, c := range []command{l.command("register", "https://"+o.server.line.address(), "--fingerprint", o.fingerprint), login} {
		if _, err := o.run(ctx, c); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *laptop) command(args ...string) command {
	return command{program: "disksyncmgr", args: append([]string{"--standalone", "--state", laptopDir}, args...), server: l.server}
}

// deploy brings a version to a laptop that has nothing.
func (l *laptop) deploy(ctx context.Context, v image.Version, more ...string) (sample, endpoint.Receipt, error) {
	return l.receive(ctx, append([]string{"download", l.image, "--version", v.String()}, more...)...)
}

// update brings another version to it.
func (l *laptop) update(ctx context.Context, v image.Version) (sample, endpoint.Receipt, error) {
	return l.receive(ctx, "update", l.image, "--version", v.String())
}

func (l *laptop) receive(ctx context.Context, args ...string) (sample, endpoint.Receipt, error) {
	s, rc, err := asJSON[endpoint.Receipt](ctx, l.bench, l.command(args...))
	if err == nil && rc.Nothing != "" {
		err = errors.New(rc.Nothing)
	}
	return s, rc, err
}

// check compares the installed disk with the one that was published, byte by byte, where free space is zeros; and has e2fsck
// look at the file systems that are its business. It leaves the installed disk in the file exported when that is asked for.
func (l *laptop) check(ctx context.Context, disk string, keep bool) error {
	if err := l.remove(exported); err != nil {
		return err
	}
	export := l.command("export", l.image, "--to", exported)
	if _, err := l.run(ctx, export); err != nil {
		return err
	}
	volumes, err := sameButFree(l.at(exported), l.at(disk))
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Kept != "" || v.Kind != diskmap.Ext2 && v.Kind != diskmap.Ext3 && v.Kind != diskmap.Ext4 {
			continue
		}
		c := command{program: "e2fsck", args: []string{"-fn", exported + "?offset=" + strconv.FormatInt(v.Offset, 10)}}
		if _, err := l.run(ctx, c); err != nil {
			return fmt.Errorf("%s of the installed %s: %w", v.Name, disk, err)
		}
	}
	if keep {
		return nil
	}
	return l.remove(exported)
}

// close removes the laptop's disks.
func (l *laptop) close() error { return l.remove(laptopDir) }
