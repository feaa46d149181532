package media_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/api"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
	"disksync/internal/problem"
	"disksync/internal/testkit/lab"
	"disksync/layer"
	"disksync/media"
)

// TestCancelled ends a run while it writes, and when it has written and is about to read back.
func TestCancelled(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Disk(1, 2), lab.Disk(3, 4))
	for where, is := range map[string]func(done, total int64) bool{
		"write":     func(done, total int64) bool { return done < total },
		"read back": func(done, total int64) bool { return done == total },
	} {
		t.Run(where, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			res, err := media.Write(ctx, s.Admin, media.Options{Want: want(2), Dir: dir, Progress: func(stage string, done, total int64) {
				if stage == "write "+s.files[1].Name && is(done, total) {
					cancel()
				}
			}})
			if ctx.Err() == nil {
				t.Fatal("the run was never there")
			}
			if p := problem.Of(err); !errors.Is(err, context.Canceled) || p.Exit != problem.Interrupted {
				t.Errorf("error %v, problem %+v", err, p)
			}
			if len(res.Files) != 1 || !res.Files[0].Written {
				t.Errorf("result %+v", res)
			}
			// What there is of the second is of use, and the next run goes on with it.
			if diff := cmp.Diff([]string{s.files[0].Name, s.files[1].Name + ".tmp"}, names(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			s.check(t, 1, dir)

			before := identities(t, dir)
			if got := written(s.write(t, 2, dir)); !slices.Equal(got, []bool{false, true}) {
				t.Errorf("the next run wrote %v", got)
			}
			s.check(t, 2, dir)
			if identities(t, dir)[s.files[0].Name] != before[s.files[0].Name] {
				t.Error("the next run wrote again what was good")
			}
		})
	}
}

// TestServerDamaged has a Synchronizer whose copy of a layer has a bad bit.
func TestServerDamaged(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	b := []byte(good(t, s.Path(1)))
	b[len(b)/2] ^= 1
	if err := os.WriteFile(s.Path(1), b, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	res, err := media.Write(t.Context(), s.Admin, media.Options{Want: want(2), Dir: dir})
	if p := problem.Of(err); p == nil || p.Code != "DS-SERVER-DAMAGED" || p.Exit != problem.Damaged || !errors.Is(err, layer.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	if len(res.Files) != 1 {
		t.Errorf("result %+v", res)
	}
	if diff := cmp.Diff([]string{s.files[0].Name}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	s.check(t, 1, dir)
}

// TestCutLine cuts the line while a layer comes over it: it goes on from there, not from the start.
func TestCutLine(t *testing.T) {
	t.Parallel()
	s := open(t, lab.Disk(1, 2, 3))
	if err := s.Admin.AddUser(t.Context(), api.NewUser{Name: "boss", Password: lab.Password, Admin: true}); err != nil {
		t.Fatal(err)
	}
	tok, err := s.Lab.Client(t, "").Login(t.Context(), api.Login{
		User: "boss", Password: lab.Password, Device: api.Device{ID: image.RandomUUID([16]byte{1}), Name: "desk"},
	})
	if err != nil {
		t.Fatal(err)
	}
	line := s.Line(t, 0)
	far := *s.Lab
	far.URL = line.URL
	c := far.Client(t, tok.Token)
	dir := t.TempDir()
	cut, at := false, int64(0)
	res, err := media.Write(t.Context(), c, media.Options{Want: want(1), Dir: dir, Progress: func(stage string, done, total int64) {
		if !strings.HasPrefix(stage, "write ") {
			return
		}
		if done < at {
			t.Errorf("after %d bytes it began again at %d", at, done)
		}
		if at = done; !cut && done < total {
			cut = true
			line.Break()
			line.Mend()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !cut || line.Conns() < 2 || len(res.Files) != 1 || !res.Files[0].Written {
		t.Errorf("cut %v, %d connections, result %+v", cut, line.Conns(), res)
	}
	s.check(t, 1, dir)
}

// forgetful is a medium that reads files with one bit changed.
type forgetful struct{ durable.FS }

func (f forgetful) Open(name string) (durable.File, error) {
	in, err := f.FS.Open(name)
	return forgetfulFile{in}, err
}

type forgetfulFile struct{ durable.File }

func (f forgetfulFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if at := 1000 - off; at >= 0 && at < int64(n) {
		p[at] ^= 1
	}
	return n, err
}

// broken is a medium of which files cannot be read back from some place on.
type broken struct{ durable.FS }

func (f broken) Open(name string) (durable.File, error) {
	in, err := f.FS.Open(name)
	return brokenFile{in}, err
}

type brokenFile struct{ durable.File }

func (f brokenFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= 1000 && off+int64(len(p)) > 1000 {
		return 0, &fs.PathError{Op: "read", Path: "file", Err: syscall.EIO}
	}
	return f.File.ReadAt(p, off)
}

// TestBadMedium has media that do not give back what was written.
func TestBadMedium(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	for name, bad := range map[string]func(durable.FS) durable.FS{
		"another bit": func(f durable.FS) durable.FS { return forgetful{f} },
		"no bytes":    func(f durable.FS) durable.FS { return broken{f} },
	} {
		t.Run(name, func(t *testing.T) {
			files := faultfs.New()
			res, err := media.WriteOn(t.Context(), s.Admin, options(), bad(files))
			if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-BAD" || p.Exit != problem.Damaged {
				t.Errorf("error %v", err)
			}
			if len(res.Files) > 0 || files.String() != "" {
				t.Errorf("result %+v, files:\n%s", res, files)
			}
		})
	}
}

func options() media.Options { return media.Options{Want: want(2), Dir: "stick"} }

// slurp returns a file of fsys.
func slurp(t *testing.T, fsys durable.FS, name string) []byte {
	t.Helper()
	b, err := durable.ReadFile(fsys, name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkOn makes sure that what has its final name on a medium is what the Synchronizer has. whole says that all must be there.
func (s *shop) checkOn(t *testing.T, fsys durable.FS, env []byte, whole bool) {
	t.Helper()
	want := map[string][]byte{fmt.Sprintf("%s-v%d.manifest.json", name, len(s.disks)): env}
	for _, f := range s.files {
		want[f.Name] = []byte(good(t, f.Path))
	}
	entries, err := fsys.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch b, ok := want[e.Name()]; {
		case ok && !bytes.Equal(slurp(t, fsys, e.Name()), b):
			t.Errorf("%s is not what it should be", e.Name())
		case ok:
			delete(want, e.Name())
		case whole || !strings.HasSuffix(e.Name(), durable.TempSuffix):
			t.Errorf("%s is left", e.Name())
		}
	}
	if whole && len(want) > 0 {
		t.Errorf("%d files are missing: %v", len(want), fsys)
	}
}

// TestFaultAtEveryStep has the medium fail, fill up or vanish at each step. Whatever has its name afterwards is good, and the next
// run completes it.
func TestFaultAtEveryStep(t *testing.T) {
	t.Parallel()
	s := open(t, small()[0])
	env, err := s.Admin.Manifest(t.Context(), name, 1)
	if err != nil {
		t.Fatal(err)
	}
	o := media.Options{Want: want(1), Dir: "stick"}
	count := faultfs.New()
	if _, err := media.WriteOn(t.Context(), s.Admin, o, count); err != nil {
		t.Fatal(err)
	}
	s.checkOn(t, count, env, true)
	if count.Steps() < 10 {
		t.Fatalf("%d steps", count.Steps())
	}
	for _, fault := range []faultfs.Fault{faultfs.FailBefore, faultfs.FailAfter, faultfs.Short, faultfs.NoSpace, faultfs.PowerLoss} {
		t.Run(fault.String(), func(t *testing.T) {
			for i, step := range count.Log() {
				writes := step.Op == faultfs.OpWrite || step.Op == faultfs.OpCreate
				if !writes && (fault == faultfs.Short || fault == faultfs.NoSpace) {
					continue // no more than what fails before it, or nothing
				}
				at := i + 1
				fsys := faultfs.New()
				fsys.Arm(at, fault)
				_, err := media.WriteOn(t.Context(), s.Admin, o, fsys)
				if !fsys.Fired() {
					t.Fatalf("step %d was not reached", at)
				}
				// What fails after it was found that there is nothing to remove has not failed.
				if err == nil && (fault != faultfs.FailAfter || step.Op != faultfs.OpRemove) {
					t.Errorf("step %d, %v: no error", at, step)
				}
				if fault == faultfs.NoSpace && problem.Of(err).Code != "DS-MEDIA-SPACE" {
					t.Errorf("step %d, %v: error %v", at, step, err)
				}
				next := fsys
				if fault == faultfs.PowerLoss {
					next = fsys.Restart([]float64{0, 0.5, 1}[at%3], rand.New(rand.NewPCG(1, uint64(at))))
				}
				next.Arm(0, faultfs.None)
				s.checkOn(t, next, env, err == nil)
				if _, err := media.WriteOn(t.Context(), s.Admin, o, next); err != nil {
					t.Errorf("step %d, %v: the next run: %v", at, step, err)
				}
				s.checkOn(t, next, env, true)
				if bad := append(fsys.UnsafeRenames(), next.UnsafeRenames()...); len(bad) > 0 {
					t.Errorf("step %d, %v: named before it was synced: %v", at, step, bad)
				}
			}
		})
	}
}

// tight is a medium on which so many bytes fit; all files count.
type tight struct {
	*faultfs.FS
	size int64
}

func (f tight) Free() (int64, error) {
	entries, err := f.ReadDir(".")
	free := f.size
	for _, e := range entries {
		st, err := f.Stat(e.Name())
		if err != nil {
			return 0, err
		}
		free -= st.Size()
	}
	return free, err
}

// set puts a file on a medium.
func set(t *testing.T, fsys durable.FS, name string, b []byte) {
	t.Helper()
	if err := durable.WriteFile(fsys, name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestNoRoom writes to media that have too little room.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	first, second := s.files[0], s.files[1]
	layers := first.Length + second.Length
	damaged := []byte(good(t, s.Path(0)))
	damaged[len(damaged)/2] ^= 1
	tests := []struct {
		name    string
		size    int64
		prepare map[string][]byte
		fails   bool
		want    []string
	}{
		{"none", 0, nil, true, nil},
		{"a byte less than the first", first.Length - 1, nil, true, nil},
		{"a byte less than both", layers - 1, nil, true, nil},
		{"both", layers + 8192, nil, false, []string{name + "-v2.manifest.json", first.Name, second.Name}},
		// There is no room beside the damaged one, which is worth less than a good one.
		{"in place of a damaged one", layers + 8192, map[string][]byte{first.Name: damaged, second.Name: []byte(good(t, s.Path(1)))}, false,
			[]string{name + "-v2.manifest.json", first.Name, second.Name}},
		{"what an interrupted run left", layers + 8192, map[string][]byte{first.Name + ".tmp": damaged}, false,
			[]string{name + "-v2.manifest.json", first.Name, second.Name}},
		{"another file", layers, map[string][]byte{first.Name: []byte("my diary")}, true,
			[]string{first.Name}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fsys := tight{faultfs.New(), test.size}
			for n, b := range test.prepare {
				set(t, fsys, n, b)
			}
			_, err := media.WriteOn(t.Context(), s.Admin, options(), fsys)
			if test.fails {
				if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-SPACE" || p.Exit != problem.NoSpace || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("error %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			entries, err := fsys.ReadDir(".")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
				if b := test.prepare[e.Name()]; string(b) == "my diary" && string(slurp(t, fsys, e.Name())) != string(b) {
					t.Errorf("%s was touched", e.Name())
				}
			}
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

// fat is a medium whose file system takes no large files.
type fat struct{ durable.FS }

func (f fat) Create(name string, perm fs.FileMode) (durable.File, error) {
	out, err := f.FS.Create(name, perm)
	return fatFile{out}, err
}

type fatFile struct{ durable.File }

func (f fatFile) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > 100_000 {
		return 0, &fs.PathError{Op: "write", Path: "file", Err: syscall.EFBIG}
	}
	return f.File.WriteAt(p, off)
}

func TestFileTooLarge(t *testing.T) {
	t.Parallel()
	s := open(t, small()...)
	files := faultfs.New()
	_, err := media.WriteOn(t.Context(), s.Admin, options(), fat{files})
	if p := problem.Of(err); p == nil || p.Code != "DS-MEDIA-FILESIZE" || p.Exit != problem.NoSpace {
		t.Errorf("error %v", err)
	}
	if files.String() != "" {
		t.Errorf("files:\n%s", files)
	}
}
