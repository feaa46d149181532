package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"disksync/internal/progress"
	"disksync/media"
	"disksync/publish"
)

// A server is the Synchronizer and the machine that it runs on.
type server struct {
	machine
	address     string // host and port
	fingerprint string
	process     *child // nil while it is stopped
}

const (
	imageName   = "golden"
	stickFolder = "stick"
)

func (s *server) url() string { return "https://" + s.address }

// serve starts the Synchronizer at an address and waits until it listens.
func (d *demo) serve(ctx context.Context, listen string) (err error) {
	s := d.server
	if s.process, err = s.start(cmdline("synchronizer", "serve", "--listen", listen)); err != nil {
		return err
	}
	d.services = append(d.services, s.process)
	line, err := s.process.ready(ctx)
	if err != nil {
		return err
	}
	words := strings.Fields(line) // listening URL fingerprint FINGERPRINT
	if len(words) != 4 {
		return fmt.Errorf("synchronizer serve printed %q", line)
	}
	s.result("%s %s", words[0], words[1])
	s.result("%s %s", words[2], words[3])
	s.address, s.fingerprint = strings.TrimPrefix(words[1], "https://"), words[3]
	return nil
}

// stop ends the Synchronizer.
func (s *server) stop() error {
	if s.process == nil {
		return nil
	}
	p := s.process
	s.process = nil
	return p.stop()
}

// publishFirst starts the Synchronizer, publishes the disk as version 1, gives it to a user and writes it to a stick.
func (d *demo) publishFirst(ctx context.Context) error {
	d.step("The Synchronizer: a first version, a user, a stick")
	s := &server{machine: d.machine("server")}
	d.server, d.user = s, user{"ann", rand.Text()}
	d.atEnd(s.stop)
	s.export("SYNCHRONIZER_DATA=synchronizer")
	if err := d.serve(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.publish(ctx, "as built"); err != nil {
		return err
	}
	add := cmdline("synchronizer", "user", "add", d.user.name, "--password-stdin")
	add.secret = d.user.password
	for _, c := range []call{add, cmdline("synchronizer", "assign", imageName, "--to", "user:"+d.user.name)} {
		if _, err := s.run(ctx, c); err != nil {
			return err
		}
	}
	return d.writeStick(ctx)
}

// publish publishes the newest version of the disk, with what its file system calls free: it is compared byte by byte afterwards.
func (d *demo) publish(ctx context.Context, note string) error {
	v := d.disks[len(d.disks)-1]
	res, err := ask[publish.Result](ctx, &d.server.machine,
		cmdline("synchronizer", "image", "publish", imageName, "--system", v.file, "--all-blocks", "--note", note, "--json"))
	if err != nil {
		return err
	}
	if int(res.Version) != len(d.disks) || len(res.Disks) != 1 {
		return fmt.Errorf("%s was published as version %d with %d disks", v.file, res.Version, len(res.Disks))
	}
	v.stored = res.Disks[0]
	d.server.result("version %d: %s, %d blocks of 2 MiB, stored in %s", res.Version, v.kind(), v.stored.Blocks,
		progress.Bytes(v.stored.Bytes))
	d.expect(v.stored.From.IsZero() == (res.Version == 1), "version %d is stored as %s", res.Version, v.kind())
	return nil
}

func (v *version) kind() string {
	if v.stored.From.IsZero() {
		return "the full disk"
	}
	return "the difference"
}

// writeStick writes version 1 to the folder that stands for a stick.
func (d *demo) writeStick(ctx context.Context) error {
	res, err := ask[media.Result](ctx, &d.server.machine,
		cmdline("synchronizer", "media", "write", "-n", imageName, "-v", "1", "--to", stickFolder, "--json"))
	if err != nil {
		return err
	}
	for _, f := range res.Files {
		d.server.result("%s: %s, %d blocks, written and read back", f.Path, progress.Bytes(f.Length), f.Blocks)
	}
	d.say("The folder %q stands for a USB stick that travels to the laptops.", stickFolder)
	return nil
}

// publishUpdate publishes version 2. The stick does not have it.
func (d *demo) publishUpdate(ctx context.Context) error {
	d.step("An update of the disk: only the difference is stored")
	if err := d.publishNext(ctx); err != nil {
		return err
	}
	return d.server.show(ctx, cmdline("synchronizer", "image", "list"))
}

func (d *demo) publishNext(ctx context.Context) error {
	if err := d.nextVersion(ctx); err != nil {
		return err
	}
	return d.publish(ctx, "update "+strconv.Itoa(len(d.disks)-1))
}
