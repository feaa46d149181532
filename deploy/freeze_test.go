package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/faultfs"
)

// served is a VM that runs: its disks are open, and exchanged as a service of disks does it.
type served struct {
	s     *deploy.Store
	disks map[image.UUID]*deploy.Live // by leaf
}

func serve(s *deploy.Store, leaves ...image.UUID) (*served, error) {
	r := &served{s, map[image.UUID]*deploy.Live{}}
	for _, leaf := range leaves {
		l, err := s.OpenLive(leaf)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.disks[leaf] = l
	}
	return r, nil
}

func (r *served) close() error {
	var err error
	for _, l := range r.disks {
		err = errors.Join(err, l.Close())
	}
	return err
}

// Swap implements deploy.Swapper.
func (r *served) Swap(next func([]image.UUID) (map[image.UUID]image.UUID, error)) error {
	var now []image.UUID
	for leaf, l := range r.disks {
		if err := l.Disk.Sync(); err != nil {
			return err
		}
		now = append(now, leaf)
	}
	instead, err := next(now)
	if err != nil {
		return err
	}
	for old, leaf := range instead {
		open := func() (*deploy.Live, error) { return r.s.OpenLive(leaf) }
		if leaf == old {
			open = r.disks[old].Again
		}
		l, err := open()
		if err != nil {
			return err
		}
		gone := r.disks[old]
		delete(r.disks, old)
		r.disks[leaf] = l
		if err := gone.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (r *served) write(off int64, p []byte) error {
	for _, l := range r.disks {
		if _, err := l.Disk.WriteAt(p, off); err != nil {
			return err
		}
		return l.Disk.Sync()
	}
	return errors.New("no disk")
}

// backUp does with the store what a backup does; the server's part is to say yes.
func backUp(ctx context.Context, s *deploy.Store, live deploy.Swapper) error {
	_, err := backUpFree(ctx, s, live, units{0: true}, nil)
	return err
}

// backUpFree is backUp that leaves out what is free, and returns how much that is. check, when it is not nil, is given what the point has.
func backUpFree(ctx context.Context, s *deploy.Store, live deploy.Swapper, free deploy.Free, check func(to []byte) error) (left int64, err error) {
	vm, err := s.Freeze("vm", live, image.Stopped)
	if err != nil {
		return 0, err
	}
	f, err := s.OpenFrozen(vm.Current.Disks[0])
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if !f.Same() {
		start, err := f.Since(ctx, f.Held, free)
		if err != nil {
			return 0, err
		}
		now, err := whole(start.To)
		if err != nil {
			return 0, err
		}
		left = start.To.LeftOut()
		st := stateOf(now)
		for i := range st.Blocks {
			if !start.Changed(i) && st.Blocks[i] != start.State.Block(i) {
				return left, fmt.Errorf("block %d has changed", i)
			}
		}
		if check != nil {
			if err := check(now); err != nil {
				return left, err
			}
		}
		point := image.Version(1)
		if vm.Backup != nil {
			point += vm.Backup.Point
		}
		b := deploy.Backup{Line: vm.ID, Point: point, Made: nowForTests()}
		if err := s.NotePoint(vm.ID, b, []deploy.Noted{{Top: f.Top, State: st, To: start.To}}); err != nil {
			return left, err
		}
	}
	return left, s.Coalesce(ctx, vm.ID, func() deploy.Swapper { return live }, deploy.NewTally())
}

// checkBackedUp compares the disk of the VM "vm" with what it should hold, and what its record says of backups with what is there.
func checkBackedUp(fsys durable.FS, want []byte) error {
	s, err := deploy.OpenStore(fsys, nowForTests)
	if err != nil {
		return err
	}
	vm, err := s.VM("vm")
	if err != nil {
		return err
	}
	d := vm.Current.Disks[0]
	if err := sameContent(fsys, d.Leaf, want); err != nil {
		return err
	}
	if d.Held == nil {
		return nil
	}
	return sameHeld(context.Background(), s, d)
}

func TestFreeze(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running %v", running), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.version(true, 1, 2, 3)
			h.version(false, 1, 2, 4)
			h.bring("vm", 1)
			vm := h.bring("vm", 2)
			want := slices.Clone(h.l.version(2).disk)
			write := func(off int64, text string) {
				t.Helper()
				copy(want[off:], text)
				now, err := h.s.VM("vm")
				if err != nil {
					t.Fatal(err)
				}
				writeDisk(t, h.fsys, leafOf(&now.Current), off, []byte(text))
			}
			var live deploy.Swapper
			if running {
				r, err := serve(h.s, leafOf(&vm.Current))
				if err != nil {
					t.Fatal(err)
				}
				defer r.close()
				live = r
				write = func(off int64, text string) {
					t.Helper()
					copy(want[off:], text)
					if err := r.write(off, []byte(text)); err != nil {
						t.Fatal(err)
					}
				}
			}
			for i := range 5 {
				write(int64(i%3)*block+int64(i)*1024, fmt.Sprintf("round %d", i))
				if err := backUp(t.Context(), h.s, live); err != nil {
					t.Fatal(err)
				}
				// Once more without anything new.
				if err := backUp(t.Context(), h.s, live); err != nil {
					t.Fatal(err)
				}
				vm, err := h.s.VM("vm")
				if err != nil {
					t.Fatal(err)
				}
				if d := vm.Current.Disks[0]; len(d.Frozen) != 1 || d.Held == nil || d.Held.At != d.Frozen[0] || int(vm.Backup.Point) != i+1 {
					t.Errorf("after round %d the disk is %+v, the backup %+v", i, d, vm.Backup)
				}
				if err := checkBackedUp(h.fsys.Clone(), want); err != nil {
					t.Errorf("round %d: %v", i, err)
				}
				if err := checkTidy(h.s, h.fsys); err != nil {
					t.Errorf("round %d: %v", i, err)
				}
			}
		})
	}
}

// TestFrozenIsTheUsers: what was frozen is the user's as what is in the leaf is.
func TestFrozenIsTheUsers(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1, 2)
	h.version(false, 1, 3)
	h.version(false, 1, 4)
	vm := h.bring("vm", 1)
	want := h.scribble(leafOf(&vm.Current), "of the user")
	if err := backUp(t.Context(), h.s, nil); err != nil {
		t.Fatal(err)
	}
	vm, err := h.s.VM("vm")
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := h.s.Changed(vm); err != nil || !changed[image.System] {
		t.Errorf("changed: %v, %v", changed, err)
	}
	leaf := leafOf(&vm.Current)
	h.bring("vm", 2)
	h.holds(leaf, want)
	h.rollBack("vm")
	if err := checkBackedUp(h.fsys.Clone(), want); err != nil {
		t.Error(err)
	}
	h.bring("vm", 2)
	vm = h.bring("vm", 3) // retires the version with what was frozen
	if !slices.Equal(vm.Kept, []image.UUID{leaf}) {
		t.Errorf("kept %v, want %v", vm.Kept, leaf)
	}
	h.holds(leaf, want)
	if err := h.s.Delete("vm"); err != nil {
		t.Fatal(err)
	}
	openStore(t, h.fsys)
	if left := files(t, h.fsys, "disks"); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestDigestsOfPoint: the list of digests is a hint.
func TestDigestsOfPoint(t *testing.T) {
	for name, spoil := range map[string]func(*house, string){
		"missing": func(h *house, name string) {
			if err := durable.Remove(h.fsys, name); err != nil {
				h.Fatal(err)
			}
		},
		"damaged": func(h *house, name string) {
			if err := durable.WriteFile(h.fsys, name, []byte("no list"), 0o600); err != nil {
				h.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.version(true, 1, 2)
			vm := h.bring("vm", 1)
			h.scribble(leafOf(&vm.Current), "one")
			if err := backUp(t.Context(), h.s, nil); err != nil {
				t.Fatal(err)
			}
			vm, _ = h.s.VM("vm")
			spoil(h, "disks/"+image.VHDUUID(vm.Current.Disks[0].Held.State).String()+".point")
			want := h.scribble(leafOf(&vm.Current), "two")
			if err := backUp(t.Context(), h.s, nil); err != nil {
				t.Fatal(err)
			}
			if err := checkBackedUp(h.fsys, want); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBackupFaults breaks a backup's work on the disks at every step, of a VM that runs and of one that does not: whatever was durable
// on its disk before is there afterwards, and a later backup ends as one that was not broken.
func TestBackupFaults(t *testing.T) {
	h := newHouse(t)
	h.version(true, 1)
	h.bring("vm", 1)
	want := slices.Clone(h.l.version(1).disk)
	for i, text := range []string{"of the first backup", "of the second"} {
		if i > 0 {
			if err := backUp(t.Context(), h.s, nil); err != nil {
				t.Fatal(err)
			}
		}
		vm, err := h.s.VM("vm")
		if err != nil {
			t.Fatal(err)
		}
		writeDisk(t, h.fsys, leafOf(&vm.Current), 512, []byte(text))
		copy(want[512:], text)
	}
	later := []byte("written behind the fault")
	for _, running := range []bool{false, true} {
		job := func(fsys *faultfs.FS, arm func()) (*served, error) {
			s, err := deploy.OpenStore(fsys, nowForTests)
			if err != nil {
				return nil, err
			}
			var live deploy.Swapper
			var r *served
			if running {
				vm, err := s.VM("vm")
				if err != nil {
					return nil, err
				}
				if r, err = serve(s, leafOf(&vm.Current)); err != nil {
					return nil, err
				}
				live = r
			}
			arm()
			return r, backUp(t.Context(), s, live)
		}
		trial := h.fsys.Clone()
		if _, err := job(trial, func() { trial.Arm(0, faultfs.None) }); err != nil {
			t.Fatal(err)
		}
		log := trial.Log()
		if len(log) < 20 {
			t.Fatalf("%d steps: this is not the protocol", len(log))
		}
		cases := 0
		for _, m := range modes() {
			if m.seed > 0 && !soak() {
				continue
			}
			steps := m.steps(log)
			cases += len(steps)
			var g errgroup.Group
			g.SetLimit(runtime.GOMAXPROCS(0))
			for _, step := range steps {
				g.Go(func() error {
					fsys := h.fsys.Clone()
					r, runErr := job(fsys, func() { fsys.Arm(step, m.fault) })
					if !fsys.Fired() {
						return fmt.Errorf("step %d did not fire", step)
					}
					fail := func(what string, err error) error {
						return fmt.Errorf("running %v, %v, keep %v, seed %d, step %d of %d (%v), %w: %s: %w", running, m.fault, m.keep, m.seed, step,
							len(log), log[step-1], errors.Join(runErr, errors.New("-")), what, err)
					}
					now := want
					if m.keep < 0 && r != nil {
						// The process goes on, and so does the VM.
						fsys.Arm(0, faultfs.None)
						if err := r.write(9000, later); err == nil {
							now = bytes.Clone(want)
							copy(now[9000:], later)
							if err := backUp(t.Context(), r.s, r); err != nil {
								return fail("the next backup", err)
							}
						}
					}
					left := m.after(fsys, step)
					if err := checkBackedUp(left, now); err != nil {
						return fail("left", err)
					}
					s, err := deploy.OpenStore(left, nowForTests)
					if err == nil {
						err = backUp(t.Context(), s, nil)
					}
					if err == nil {
						err = checkBackedUp(left, now)
					}
					if err == nil {
						err = checkTidy(s, left)
					}
					vm, vmErr := mustOpen(left).VM("vm")
					if err = errors.Join(err, vmErr); err == nil && len(vm.Current.Disks[0].Frozen) != 1 {
						err = fmt.Errorf("frozen: %v", vm.Current.Disks[0].Frozen)
					}
					if err != nil {
						return fail("finished", err)
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		}
		t.Logf("running %v: %d steps, %d cases", running, len(log), cases)
	}
}
