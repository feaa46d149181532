package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/publish"
	"disksync/syncclient"
)

func newPublish(o *options) *cobra.Command {
	var f publishFlags
	var asJSON bool
	c := &cobra.Command{
		Use: "publish IMAGE --system FILE", Short: "Publish a version of an image", Args: cobra.ExactArgs(1),
		Long: `Publishes the next version of an image: the first time the whole disk, then what differs from the newest
version. FILE is a raw disk, or a VHD of any kind; a differencing VHD needs its parents beside it, or a
published version in their place. A disk that is not named stays as it was in the version before.

What deleted files left behind is not published: space that a cleanly unmounted file system calls free
becomes zeros, and so does what is in swap spaces, pagefile.sys, hiberfil.sys and swapfile.sys.

Whoever has the file that the newest version was published from names it with --previous-system: then that
version need not be fetched and unpacked. Each block of it is compared with its digest before it is used.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options(cmd, args[0])
			if err != nil {
				return err
			}
			if opts.Spool == "" {
				opts.Spool = o.spool()
			}
			meter := progress.New(os.Stderr)
			defer meter.Done()
			opts.Progress = func(stage string, done, total int64) { meter.Show(stage, done, total, "") }
			opts.Warn = func(text string) { meter.Note("warning: %s", text) }
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				if os.Getenv("GOMEMLIMIT") == "" {
					debug.SetMemoryLimit(publisherMemory)
				}
				res, err := publish.Run(cmd.Context(), c, opts)
				if err != nil {
					return err
				}
				meter.Done()
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), res)
				}
				printPublished(cmd, res)
				return nil
			})
		},
	}
	f.add(c)
	o.addLimit(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}

// publishFlags say what is published.
type publishFlags struct {
	disks, previous           map[image.Role]*string
	mode, note, format, spool string
	trace                     string
	level                     int
	allBlocks                 bool
	machine                   machineFlags
}

func (f *publishFlags) add(c *cobra.Command) {
	f.disks, f.previous = map[image.Role]*string{}, map[image.Role]*string{}
	flags := c.Flags()
	for _, r := range image.Roles() {
		f.disks[r] = flags.String(string(r), "", "`file` of the "+string(r)+" disk")
		f.previous[r] = flags.String("previous-"+string(r), "", "`file` of that disk in the newest version, which then need not be fetched")
	}
	flags.StringVar(&f.mode, "mode", "", "of a new image: static (default), static-profile or dynamic")
	flags.StringVar(&f.note, "note", "", "words about this version")
	flags.StringVar(&f.format, "format", "", "read the files as vhd or raw, whatever they are called")
	flags.BoolVar(&f.allBlocks, "all-blocks", false, "publish also what is in free space")
	flags.StringVar(&f.spool, "spool", "", "`folder` with room for the packed difference")
	flags.StringVar(&f.trace, "boot-trace", "", "`file` with the blocks that a VM reads when it starts: {\"system\": [0, 5, 3]}")
	f.machine.add(c)
	flags.IntVar(&f.level, "level", 0, "compression level 1 (fast) to 4 (small); default 3")
}

// options returns what the flags say.
func (f *publishFlags) options(cmd *cobra.Command, name string) (publish.Options, error) {
	o := publish.Options{Image: name, Mode: image.Mode(f.mode), Note: f.note, Spool: f.spool, Level: zstd.EncoderLevel(f.level),
		AllBlocks: f.allBlocks, FindFree: findFree}
	if f.mode != "" {
		if err := new(image.Mode).UnmarshalText([]byte(f.mode)); err != nil {
			return o, cli.UsageError("%v", err)
		}
	}
	format, err := publish.ParseFormat(f.format)
	if err != nil {
		return o, cli.UsageError("%v", err)
	}
	o.Disks = named(f.disks, format)
	if len(o.Disks) == 0 {
		return o, cli.UsageError("name a disk with --system, --application or --user")
	}
	if o.Previous, err = namedPrevious(f.previous, o.Disks); err != nil {
		return o, err
	}
	if o.Machine, err = f.machine.machine(cmd); err != nil {
		return o, err
	}
	o.Boot, err = readTrace(f.trace)
	return o, err
}

// named returns the disks that have a file.
func named(files map[image.Role]*string, f publish.Format) []publish.Disk {
	var out []publish.Disk
	for _, r := range image.Roles() {
		if *files[r] != "" {
			out = append(out, publish.Disk{Role: r, Path: *files[r], Format: f})
		}
	}
	return out
}

// namedPrevious returns the files of disks in the newest version, each of which must be published as well.
func namedPrevious(files map[image.Role]*string, disks []publish.Disk) (map[image.Role]string, error) {
	out := map[image.Role]string{}
	for r, file := range files {
		if *file == "" {
			continue
		}
		if !slices.ContainsFunc(disks, func(d publish.Disk) bool { return d.Role == r }) {
			return nil, cli.UsageError("--previous-%s needs --%s", r, r)
		}
		out[r] = *file
	}
	return out, nil
}

// readTrace reads the file of a boot trace; "": none.
func readTrace(file string) (image.BootTrace, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, problem.New("DS-USAGE", problem.Usage, err, "the boot trace cannot be read", "nothing was published", "")
	}
	defer f.Close()
	t, err := image.ReadBootTrace(f)
	if err != nil {
		return nil, problem.New("DS-USAGE", problem.Usage, err, file+" is no boot trace", "nothing was published",
			"it has a list of block numbers for each role, as {\"system\": [0, 5, 3]}")
	}
	return t, nil
}

// spool returns a folder that has room when the layers have: the data folder itself, when it is on this machine.
func (o *options) spool() string {
	dir, named := o.dataDir()
	if _, err := os.Stat(filepath.Join(dir, "layers")); err == nil && (named || o.server == "") {
		return filepath.Join(dir, "layers")
	}
	return ""
}

// publisherMemory is what the collector of garbage aims at: the tables of a difference and the buffers of two workers take about
// half of it, and are needed all the time.
const publisherMemory = 400 << 20

func printPublished(cmd *cobra.Command, res publish.Result) {
	w := cmd.OutOrStdout()
	if res.Unchanged {
		fmt.Fprintf(w, "version %d of %s has this content already; nothing was published\n", res.Version, res.Image)
		return
	}
	fmt.Fprintf(w, "published %s version %d\n", res.Image, res.Version)
	for _, d := range res.Disks {
		what := "a difference"
		if d.From.IsZero() {
			what = "the full disk"
		}
		if d.Unchanged {
			fmt.Fprintf(w, "  %s disk: unchanged\n", d.Role)
			continue
		}
		free := ""
		if d.Freed > 0 {
			free = fmt.Sprintf(" (%s of it free)", progress.Bytes(d.Freed))
		}
		fmt.Fprintf(w, "  %s disk: %s%s, %s, %d blocks in %s (layer %s)\n", d.Role, progress.Bytes(d.Size), free, what, d.Blocks,
			progress.Bytes(d.Bytes), d.Layer.Short())
	}
}
