package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"disksync/api"
	"disksync/dbusapi"
	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/metered"
	"disksync/internal/problem"
	"disksync/syncclient"
)

const (
	defaultState = "/var/lib/disksyncmgr"
	// defaultPatience is short because somebody is watching; the service waits for ever.
	defaultPatience = 2 * time.Minute
)

// options are the flags that all commands share.
type options struct {
	state               string
	standalone, session bool
	patience            time.Duration
}

// stateDir returns the state folder, and whether somebody named it.
func (o *options) stateDir() (dir string, named bool) {
	if o.state != "" {
		return o.state, true
	}
	if d := os.Getenv("DISKSYNCMGR_STATE"); d != "" {
		return d, true
	}
	return defaultState, false
}

// door is what the commands need of the engine: the engine itself, or the service in front of it.
type door interface {
	Probe(ctx context.Context, url string) (syncclient.Fingerprint, error)
	Register(ctx context.Context, url string, f syncclient.Fingerprint, replace bool) (*endpoint.Registration, error)
	Login(ctx context.Context, user, password string) error
	Logout(ctx context.Context) error
	Offers(ctx context.Context) ([]api.Offer, error)
	Media(ctx context.Context, folders []string, name string) (*endpoint.MediaReport, error)
	Plan(ctx context.Context, r endpoint.Request) (endpoint.PlanReport, error)
	// Run starts an operation and follows it; when ctx ends the operation is stopped.
	Run(ctx context.Context, r endpoint.Request, show func(endpoint.Status)) (*endpoint.Receipt, error)
	Resume(ctx context.Context, id image.UUID, show func(endpoint.Status)) (*endpoint.Receipt, error)
	Pause(ctx context.Context, id image.UUID) error
	Cancel(ctx context.Context, id image.UUID) error
	Operations(ctx context.Context) ([]endpoint.Status, error)
	VMs(ctx context.Context) ([]endpoint.VMInfo, error)
	RunVM(ctx context.Context, vm string, o endpoint.RunOptions) (endpoint.VMInfo, error)
	StopVM(ctx context.Context, vm string, force bool) error
	// AwaitVM returns when the VM does not run any more.
	AwaitVM(ctx context.Context, vm string) error
	Console(ctx context.Context, vm string, rw io.ReadWriter) error
	BootTrace(ctx context.Context, vm string) (image.BootTrace, error)
	Backups(ctx context.Context) ([]api.BackupLine, error)
	// BackupsOf has one of them: the id of the backups may be given in place of the VM's name.
	BackupsOf(ctx context.Context, vm string) (api.BackupLine, error)
	BackupKeys(ctx context.Context) ([]string, error)
	NewBackupKey(ctx context.Context, replace bool) (string, error)
	ExportBackupKeys(ctx context.Context) (string, error)
	ImportBackupKeys(ctx context.Context, keys string) ([]string, error)
	RemoveBackupKey(ctx context.Context, recipient string, force bool) ([]string, error)
	EncryptsBackups(ctx context.Context) (bool, error)
	EncryptBackups(ctx context.Context, on bool) error
	LendBackupKeys(ctx context.Context, keys string) ([]string, error)
	ReturnBackupKeys(ctx context.Context, recipients []string) error
	RollBack(ctx context.Context, vm string) (endpoint.VMInfo, error)
	Remove(ctx context.Context, vm string) error
	// Export writes a disk's content to out and returns the disk's size; progress is told the bytes written.
	Export(ctx context.Context, vm string, r image.Role, out io.WriterAt, progress func(done int64)) (int64, error)
	// OpenDisk opens a disk for reading, as it is now or as a point of its backups has it.
	OpenDisk(ctx context.Context, vm string, point image.Version, r image.Role) (dbusapi.Disk, error)
	Close() error
}

// open opens the front door that the flags ask for.
func (o *options) open(ctx context.Context) (door, error) {
	if o.standalone {
		saveMemory()
		dir, _ := o.stateDir()
		e, err := endpoint.Open(ctx, endpoint.Options{Dir: dir, GiveUp: o.patience, Hotplug: watchMedia(slog.New(slog.DiscardHandler))})
		if err != nil {
			return nil, err
		}
		watching, stop := context.WithCancel(ctx)
		watched := metered.Watch(watching, os.Getenv, slog.New(slog.DiscardHandler), e.Metered)
		return &standalone{e, func() { stop(); watched() }}, nil
	}
	c, err := dbusapi.Dial(ctx, o.session)
	if err != nil {
		return nil, err
	}
	if err := o.checkState(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// checkState refuses to work on another state folder than the one that was named.
func (o *options) checkState(ctx context.Context, c *dbusapi.Client) error {
	dir, named := o.stateDir()
	if !named {
		return nil
	}
	theirs, err := c.StateFolder(ctx)
	if err != nil {
		return err
	}
	if !sameFolder(dir, theirs) {
		return problem.New("DS-OTHER-STATE", problem.Usage, nil, "the service works in "+theirs+", not in "+dir, "nothing was changed",
			"leave out --state, or work without the service with --standalone")
	}
	return nil
}

func sameFolder(a, b string) bool {
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(sa, sb)
	}
	// A folder that only the service can see is compared by name.
	absA, errA := filepath.Abs(a)
	return errA == nil && absA == filepath.Clean(b)
}

// with opens the front door, runs do, and closes it.
func (o *options) with(ctx context.Context, do func(d door) error) error {
	d, err := o.open(ctx)
	if err != nil {
		return err
	}
	err = do(d)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// standalone is the engine in this process.
type standalone struct {
	*endpoint.Engine
	unwatch func()
}

func (s *standalone) Close() error {
	s.unwatch()
	return s.Engine.Close()
}

const showEvery = 200 * time.Millisecond

func (s *standalone) Run(ctx context.Context, r endpoint.Request, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	op, err := s.Start(r)
	if err != nil {
		return nil, err
	}
	return follow(ctx, op, show)
}

func (s *standalone) Resume(ctx context.Context, id image.UUID, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	op, err := s.Operation(id)
	if err != nil {
		return nil, err
	}
	if err := op.Resume(); err != nil {
		return nil, err
	}
	return follow(ctx, op, show)
}

// follow shows an operation until it has ended. An interrupt stops it, keeping what it did.
func follow(ctx context.Context, op *endpoint.Operation, show func(endpoint.Status)) (*endpoint.Receipt, error) {
	for {
		turn, cancel := context.WithTimeout(ctx, showEvery)
		err := op.Wait(turn)
		cancel()
		if ctx.Err() != nil {
			op.Stop()
			// Stopping waits for no network, only for what is being written.
			_ = op.Wait(context.WithoutCancel(ctx))
			return nil, context.Cause(ctx)
		}
		st := op.Status()
		show(st)
		if err == nil {
			return st.Receipt, st.Outcome()
		}
	}
}

func (s *standalone) Pause(context.Context, image.UUID) error {
	return problem.New("DS-STANDALONE", problem.Usage, nil, "without the service nothing runs in the background", "", "interrupt the command that runs")
}

func (s *standalone) Cancel(ctx context.Context, id image.UUID) error {
	op, err := s.Operation(id)
	if err != nil {
		return err
	}
	return op.Delete(ctx)
}

func (s *standalone) Operations(context.Context) ([]endpoint.Status, error) {
	out := []endpoint.Status{}
	for _, op := range s.Engine.Operations() {
		out = append(out, op.Status())
	}
	return out, nil
}

func (s *standalone) VMs(context.Context) ([]endpoint.VMInfo, error) { return s.Engine.VMs() }

func (s *standalone) BootTrace(_ context.Context, vm string) (image.BootTrace, error) {
	return s.Engine.BootTrace(vm)
}

func (s *standalone) RollBack(_ context.Context, vm string) (endpoint.VMInfo, error) {
	return s.Engine.RollBack(vm)
}

func (s *standalone) Remove(_ context.Context, vm string) error { return s.Engine.Remove(vm) }

func (s *standalone) OpenDisk(ctx context.Context, vm string, point image.Version, r image.Role) (dbusapi.Disk, error) {
	return s.Engine.OpenDisk(ctx, vm, point, r)
}

func (s *standalone) Export(ctx context.Context, vm string, r image.Role, out io.WriterAt, progress func(done int64)) (int64, error) {
	t := deploy.NewTally()
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(showEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				progress(t.Progress().Done)
			case <-done:
				return
			}
		}
	}()
	return s.Engine.Export(ctx, vm, r, out, t)
}
