package endpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"disksync/agefile"
	"disksync/cache"
	"disksync/config"
	"disksync/deploy"
	"disksync/image"
	"disksync/internal/durable"
	"disksync/internal/limit"
	"disksync/internal/problem"
)

// Options configures an Engine. Dir is required.
type Options struct {
	Dir string // the state folder; made when it is not there
	// Log gets one line an operation and more at Debug; nil: nothing is logged.
	Log *slog.Logger
	// Finder finds media; the zero value looks at this machine.
	Finder cache.Finder
	// Reader is the program that reads devices, image files and disks of guests, as mediachild.Options has it; nil: this program.
	Reader []string
	// Hotplug returns what knows of media that come and go, given the state folder; nil: what is mounted when an operation begins is
	// used. The Engine closes it.
	Hotplug func(fsys durable.FS) Hotplug
	// GiveUp is how long the line may be interrupted before an operation ends with an error; 0: it never does.
	GiveUp time.Duration
	// PowerDown is how long a guest may take to shut down when it is asked to; 0: 90 seconds.
	PowerDown time.Duration
	// AgentTime is how long the agent of a guest may take to answer at all, for most of those that do not are not there; 0: 2 seconds.
	AgentTime time.Duration
	// Now tells the time; nil: time.Now.
	Now func() time.Time
}

// Engine is safe for concurrent use.
type Engine struct {
	dir       string
	fsys      durable.FS
	store     *deploy.Store
	config    *config.Store
	log       *slog.Logger
	finder    cache.Finder
	reader    []string
	hotplug   Hotplug
	drives    cache.Drives
	giveUp    time.Duration
	powerDown time.Duration
	agentTime time.Duration
	now       func() time.Time
	unlock    func() error

	live  context.Context // ends with Close; operations run below it
	stop  context.CancelFunc
	work  sync.WaitGroup
	watch *watchers
	fleet fleet
	limit *limit.Limiter // of the setting for downloads
	up    *limit.Limiter // of that for backups

	mu           sync.Mutex
	registration *Registration
	login        *Login
	seen         map[string]seenImage
	keys         mediaKeys
	ring         keyring                       // of backups
	lentKeys     map[string][]agefile.Identity // by lender; in memory alone

	sealLook, sealMost int // of backup.Seal; other than 0 in tests
	policies           policies
	speed              map[string]float64 // see rates
	metered            bool
	operations         []*Operation // in the order of their creation
	earlies            map[image.UUID]*early
	running            int
	shelves            map[int]func() // told when the settings about media change
	nextShelf          int
	places             map[string]cache.Medium // the medium that was in a place last
	health             map[string]Health       // by identity
}

// stateFailed explains that the state folder cannot be used, most often by somebody whom it does not belong to.
func stateFailed(err error) error {
	return problem.New("DS-STATE-FOLDER", problem.NeedsLogin, err, "cannot use the state folder", "nothing was changed",
		"without --standalone the service works in it; else work as the user whose folder it is, or name another with --state")
}

// Open opens the state folder for this process alone. Operations that an earlier process left unfinished are there, stopped.
func Open(ctx context.Context, o Options) (*Engine, error) {
	fsys, err := durable.MakeDirs(o.Dir, 0o700)
	if err != nil {
		return nil, stateFailed(err)
	}
	unlock, err := durable.Lock(o.Dir)
	if errors.Is(err, durable.ErrLocked) {
		return nil, problem.New("DS-IN-USE", problem.Busy, err, "cannot use the state folder", "nothing was changed",
			"leave out --standalone to work through the service that has it, or wait for the other command to end")
	}
	if err != nil {
		return nil, stateFailed(err)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, errors.Join(err, unlock())
	}
	e, err := open(ctx, o, fsys)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	e.unlock = unlock
	return e, nil
}

func open(ctx context.Context, o Options, fsys durable.FS) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{
		dir: o.Dir, fsys: fsys, log: o.Log, finder: o.Finder, reader: o.Reader, now: o.Now, watch: newWatchers(),
		giveUp: o.GiveUp, powerDown: cmp.Or(o.PowerDown, powerDownTime), agentTime: cmp.Or(o.AgentTime, agentTime),
		fleet: fleet{vms: map[image.UUID]*runningVM{}, offers: map[image.UUID]*offered{}, changing: map[image.UUID]bool{}},
		seen:  map[string]seenImage{}, shelves: map[int]func(){}, earlies: map[image.UUID]*early{}, places: map[string]cache.Medium{}, health: map[string]Health{},
		lentKeys: map[string][]agefile.Identity{},
	}
	var err error
	if e.config, err = config.Open(fsys); err != nil {
		return nil, problem.New("DS-SETTINGS", problem.Damaged, err, "the settings cannot be read", "nothing was changed",
			fmt.Sprintf("mend %s, or remove it to have the defaults", filepath.Join(o.Dir, config.File)))
	}
	e.limit = limit.New(limitedBySetting, e.Settings().Limit())
	e.up = limit.New(limitedUploads, e.Settings().Upload())
	if e.store, err = deploy.OpenStore(fsys, o.Now); err != nil {
		return nil, err
	}
	if err := durable.RemoveTemps(fsys, "."); err != nil {
		return nil, err
	}
	if err := readJSON(fsys, registrationFile, &e.registration); err != nil {
		return nil, err
	}
	if err := readJSON(fsys, loginFile, &e.login); err != nil {
		return nil, err
	}
	if err := readJSON(fsys, mediaKeysFile, &e.keys); err != nil {
		return nil, err
	}
	if e.ring, err = readKeyring(fsys); err != nil {
		return nil, err
	}
	if err := readJSON(fsys, seenFile, &e.seen); err != nil {
		return nil, err
	}
	if err := readJSON(fsys, policiesFile, &e.policies); err != nil {
		return nil, err
	}
	e.loadRates()
	if err := e.loadOperations(); err != nil {
		return nil, err
	}
	if err := e.tidySpool(); err != nil {
		return nil, err
	}
	e.hotplug = still{o.Finder}
	if o.Hotplug != nil {
		e.hotplug = o.Hotplug(fsys)
	}
	e.live, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.resumeVMs(); err != nil {
		e.stop()
		e.work.Wait()
		e.hotplug.Close()
		return nil, err
	}
	return e, nil
}

// Close stops all operations, keeping what they did, and closes the state folder.
func (e *Engine) Close() error {
	e.stop()
	e.work.Wait()
	e.hotplug.Close()
	return e.unlock()
}

// Dir returns the state folder.
func (e *Engine) Dir() string { return e.dir }

// Settings returns the settings in force.
func (e *Engine) Settings() config.Settings { return e.config.Current() }

// Set changes a setting for good. Whether the caller may is for the front door to say.
func (e *Engine) Set(name string, v any) error {
	if err := e.config.Set(name, v); err != nil {
		return err
	}
	e.log.Info("setting changed", "name", name, "value", v)
	switch name {
	case config.DownloadLimit:
		e.limit.Set(e.Settings().Limit())
	case config.UploadLimit:
		e.up.Set(e.Settings().Upload())
	case config.MeteredConnections:
		e.applyMetered()
	case config.EnableUSBCache, config.EnableDVDCache:
		e.mediaSettings()
	}
	return nil
}

const maxStateFile = 16 << 20

// readJSON reads a file of the state folder; one that is not there leaves v as it is.
func readJSON(fsys durable.FS, name string, v any) error {
	b, err := durable.ReadFile(fsys, name, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return problem.New("DS-STATE", problem.Damaged, err, "the file "+name+" in the state folder is damaged",
			"disks and VMs are not touched", "move the file away and repeat what it stood for (register, log in)")
	}
	return nil
}

func writeJSON(fsys durable.FS, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return durable.WriteFile(fsys, name, b, 0o600)
}
