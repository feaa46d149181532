package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"disksync/deploy"
)

// damages are the places where the stick is damaged, in percent of its file.
func damages() []int64 { return []int64{15, 50, 85} }

// deployFromDamagedStick deploys the newest version from a stick of which some bytes are wrong.
func (d *demo) deployFromDamagedStick(ctx context.Context) error {
	d.step("The second laptop: a damaged stick")
	const damaged = "damaged-stick"
	name, err := d.damage(damaged)
	if err != nil {
		return err
	}
	d.say("%s is a copy of the stick on which 4 bytes each at %d places were inverted.", name, len(damages()))
	l, err := d.newLaptop(ctx, "2", d.server.url())
	if err != nil {
		return err
	}
	rc, err := l.receive(ctx, "download", imageName, "--media", damaged)
	if err != nil {
		return err
	}
	bad := 0
	for _, s := range rc.Sources {
		if s.Kind == deploy.USB {
			bad = s.Bad
			l.result("%d blocks of the stick were damaged and came from the network; its %d others were used", s.Bad, s.Blocks)
		}
	}
	d.expect(bad > 0 && rc.Healed == bad, "%d blocks of the stick were found damaged, %d were healed", bad, rc.Healed)
	same, err := l.has(ctx, 3, false)
	if err != nil {
		return err
	}
	d.report.add(l.deployed("damaged stick", rc, same))
	return l.close()
}

// damage copies the stick and inverts some bytes of the copy. It returns the name of the damaged file.
func (d *demo) damage(folder string) (string, error) {
	files, err := filepath.Glob(d.path(filepath.Join(stickFolder, "*.dsl")))
	if err != nil || len(files) != 1 {
		return "", errors.Join(err, fmt.Errorf("the stick has %d layer files", len(files)))
	}
	if err := os.Mkdir(d.path(folder), 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(folder, filepath.Base(files[0]))
	if err := copySparse(d.path(name), files[0]); err != nil {
		return "", err
	}
	return name, invert(d.path(name))
}

// invert inverts a few bytes at each of the places.
func invert(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for _, percent := range damages() {
		var b [4]byte
		at := info.Size() * percent / 100
		if _, err := f.ReadAt(b[:], at); err != nil {
			return err
		}
		for i := range b {
			b[i] = ^b[i]
		}
		if _, err := f.WriteAt(b[:], at); err != nil {
			return err
		}
	}
	return f.Close()
}
