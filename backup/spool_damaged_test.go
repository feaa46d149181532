package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"disksync/image"
	"disksync/internal/durable"
)

// large is what the VM writes so that the layer has chunks that nobody reads who reads its index.
var large = noise(100<<10, 78)

// TestSpoolDamaged: what is kept to be sent and was damaged since, in whatever place, is not sent. It is made anew, and the point is exact.
func TestSpoolDamaged(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	other, err := h.laptop()
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := errors.Join(other.write(0, large), other.keep()); err != nil {
		t.Fatal(err)
	}
	strange, err := other.kept()
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(l *laptop, age string, b []byte) error{
		"cut short":     func(l *laptop, age string, b []byte) error { return l.store(age, b[:len(b)-1]) },
		"longer":        func(l *laptop, age string, b []byte) error { return l.store(age, append(b, 0)) },
		"empty":         func(l *laptop, age string, _ []byte) error { return l.store(age, nil) },
		"zeros":         func(l *laptop, age string, b []byte) error { return l.store(age, make([]byte, len(b))) },
		"another layer": func(l *laptop, age string, _ []byte) error { return l.store(age, strange) },
		"missing":       func(l *laptop, age string, _ []byte) error { return durable.Remove(l.fsys, age) },
		"without its description": func(l *laptop, age string, _ []byte) error {
			return durable.Remove(l.fsys, strings.TrimSuffix(age, ".age")+".json")
		},
		"with another description": func(l *laptop, age string, _ []byte) error {
			return l.store(strings.TrimSuffix(age, ".age")+".json", []byte(`{"top":"`))
		},
	}
	for i := range 5 {
		damages[fmt.Sprintf("a bit in part %d of 5", i+1)] = func(l *laptop, age string, b []byte) error {
			b[len(b)*(2*i+1)/10] ^= 4
			return l.store(age, b)
		}
	}
	var g errgroup.Group
	g.SetLimit(4)
	for name, damage := range damages {
		g.Go(func() error {
			if err := h.damaged(damage); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func (l *laptop) store(name string, b []byte) error {
	return durable.WriteFile(l.fsys, name, b, 0o600)
}

// damaged goes on with what is kept after it was damaged.
func (h *house) damaged(damage func(l *laptop, age string, b []byte) error) error {
	l, err := h.laptop()
	if err != nil {
		return err
	}
	defer l.close()
	if err := errors.Join(l.write(0, large[:80<<10]), l.keep()); err != nil {
		return err
	}
	name, err := l.keptName()
	if err != nil {
		return err
	}
	b, err := l.kept()
	if err == nil {
		err = damage(l, name, slices.Clone(b))
	}
	if err != nil {
		return err
	}
	l.layer = image.LayerID{}
	res, err := l.run(h.Context(), func() {})
	if err != nil {
		return errors.Join(err, l.sentWell())
	}
	return l.check(res)
}

// lying is a file system that stores a wrong bit in the files that are made on it, and says that all is well.
type lying struct {
	durable.FS
	at   int64
	once sync.Once
}

func (f *lying) Create(name string, perm fs.FileMode) (durable.File, error) {
	file, err := f.FS.Create(name, perm)
	return lyingFile{file, f}, err
}

type lyingFile struct {
	durable.File
	fs *lying
}

func (f lyingFile) WriteAt(p []byte, off int64) (int, error) {
	if i := f.fs.at - off; i >= 0 && i < int64(len(p)) {
		f.fs.once.Do(func() {
			p = slices.Clone(p)
			p[i] ^= 1
		})
	}
	return f.File.WriteAt(p, off)
}

// TestSpoolThatLies: of a layer that is not what was written when it is read again, nothing is sent. The VM is as it was, and a later
// backup is exact.
func TestSpoolThatLies(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, at := range []int64{0, 100, 300, 70 << 10, 95 << 10} {
		l, err := h.laptop()
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		if err := l.write(0, large); err != nil {
			t.Fatal(err)
		}
		l.seal = &lying{FS: l.fsys, at: at}
		if res, err := l.run(t.Context(), func() {}); err == nil || l.chunks > 0 {
			t.Errorf("a wrong bit at %d: %d chunks were sent, %+v, %v", at, l.chunks, res, err)
		}
		l.seal = nil
		res, err := l.run(t.Context(), func() {})
		if err == nil {
			err = l.check(res)
		}
		if err != nil {
			t.Errorf("after a wrong bit at %d: %v", at, err)
		}
	}
}

// stopping is a file system that calls stop when a file is opened.
type stopping struct {
	durable.FS
	stop func()
}

func (f stopping) Open(name string) (durable.File, error) {
	if strings.HasSuffix(name, ".age") {
		f.stop()
	}
	return f.FS.Open(name)
}

// TestSpoolOutlivesStops: a run that is stopped while it looks at what is kept leaves it to the next, which sends it.
func TestSpoolOutlivesStops(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	l, err := h.laptop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := errors.Join(l.write(0, large), l.keep()); err != nil {
		t.Fatal(err)
	}
	want, err := l.kept()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l.seal = stopping{l.fsys, stop}
	if res, err := l.run(ctx, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that is stopped: %+v, %v", res, err)
	}
	if got, err := l.kept(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was kept is another, %v", err)
	}
	l.seal = nil
	res, err := l.run(t.Context(), func() {})
	if err == nil {
		err = l.check(res)
	}
	if err != nil {
		t.Errorf("the next run: %+v, %v", res, err)
	}
}
