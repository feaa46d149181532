package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/publish"
	"disksync/syncclient"
)

func newImage(o *options) *cobra.Command {
	return cli.Group("image", "Publish and look at images",
		newPublish(o), newImageList(o), newImageShow(o), newSquash(o), newPolicy(o), newImageDelete(o))
}

func newPublish(o *options) *cobra.Command {
	disks := map[image.Role]*string{}
	var mode, note, format, spool, trace string
	var level int
	var asJSON, allBlocks bool
	var machine machineFlags
	c := &cobra.Command{
		Use: "publish IMAGE --system FILE", Short: "Publish a version of an image", Args: cobra.ExactArgs(1),
		Long: `Publishes the next version of an image: the first time the whole disk, then what differs from the newest
version. FILE is a raw disk, or a VHD of any kind; a differencing VHD needs its parents beside it, or a
published version in their place. A disk that is not named stays as it was in the version before.

What deleted files left behind is not published: space that a cleanly unmounted file system calls free
becomes zeros, and so does what is in swap spaces, pagefile.sys, hiberfil.sys and swapfile.sys.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := publish.Options{Image: args[0], Mode: image.Mode(mode), Note: note, Spool: spool, Level: zstd.EncoderLevel(level),
				AllBlocks: allBlocks, FindFree: findFree}
			if mode != "" {
				if err := new(image.Mode).UnmarshalText([]byte(mode)); err != nil {
					return cli.UsageError("%v", err)
				}
			}
			f, err := publish.ParseFormat(format)
			if err != nil {
				return cli.UsageError("%v", err)
			}
			opts.Disks = named(disks, f)
			if len(opts.Disks) == 0 {
				return cli.UsageError("name a disk with --system, --application or --user")
			}
			if opts.Machine, err = machine.machine(cmd); err != nil {
				return err
			}
			if opts.Boot, err = readTrace(trace); err != nil {
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
	for _, r := range image.Roles() {
		disks[r] = c.Flags().String(string(r), "", "`file` of the "+string(r)+" disk")
	}
	c.Flags().StringVar(&mode, "mode", "", "of a new image: static (default), static-profile or dynamic")
	c.Flags().StringVar(&note, "note", "", "words about this version")
	c.Flags().StringVar(&format, "format", "", "read the files as vhd or raw, whatever they are called")
	c.Flags().BoolVar(&allBlocks, "all-blocks", false, "publish also what is in free space")
	c.Flags().StringVar(&spool, "spool", "", "`folder` with room for the packed difference")
	c.Flags().StringVar(&trace, "boot-trace", "", "`file` with the blocks that a VM reads when it starts: {\"system\": [0, 5, 3]}")
	o.addLimit(c)
	machine.add(c)
	c.Flags().IntVar(&level, "level", 0, "compression level 1 (fast) to 4 (small); default 3")
	c.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
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

func newImageList(o *options) *cobra.Command {
	return listCommand(o, "list", "List images", cobra.NoArgs,
		func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.Image, error) {
			return c.Images(cmd.Context())
		},
		[]string{"IMAGE", "MODE", "VERSIONS", "OTHER WAYS", "NEWEST", "DISK", "STORED"},
		func(im api.Image) []string {
			if len(im.Versions) == 0 {
				return []string{im.Name, string(im.Mode), "0", "0", "-", "-", "-"}
			}
			var disk, stored int64
			newest := im.Versions[len(im.Versions)-1]
			for _, d := range newest.Disks {
				disk += d.Size
			}
			seen := map[image.LayerID]bool{}
			for _, v := range im.Versions {
				for _, d := range v.Disks {
					if !seen[d.Layer] {
						seen[d.Layer] = true
						stored += d.Bytes
					}
				}
			}
			for _, l := range im.Layers {
				stored += l.Length
			}
			return []string{im.Name, string(im.Mode), strconv.Itoa(len(im.Versions)), strconv.Itoa(len(im.Layers)), newest.Version.String(),
				progress.Bytes(disk), progress.Bytes(stored)}
		})
}

func newImageShow(o *options) *cobra.Command {
	type row struct {
		version api.VersionInfo
		disk    api.DiskInfo
	}
	var asJSON bool
	c := &cobra.Command{
		Use: "show IMAGE", Short: "Show the versions of an image, and the layers besides those that they were published with", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				im, err := c.Image(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), im)
				}
				var rows [][]string
				for _, v := range im.Versions {
					for _, d := range v.Disks {
						r := row{v, d}
						from := "the version before"
						if d.Full {
							from = "nothing"
						}
						rows = append(rows, []string{r.version.Version.String(), v.Created.Local().Format("2006-01-02 15:04"), string(d.Role),
							progress.Bytes(d.Size), strconv.Itoa(d.Blocks), progress.Bytes(d.Bytes), from, d.State.Short(), v.Note})
					}
				}
				err = cli.Table(cmd.OutOrStdout(),
					[]string{"VERSION", "CREATED", "ROLE", "DISK", "BLOCKS", "LAYER", "FROM", "STATE", "NOTE"}, rows)
				if err != nil {
					return err
				}
				return printExtraLayers(cmd.OutOrStdout(), im)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func newImageDelete(o *options) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete IMAGE", Short: "Delete an image with all its versions and assignments", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				ok, err := cli.Confirm(cmd.Context(), "Delete "+args[0]+" with all its versions and assignments? VMs that were deployed stay.", "give --yes")
				if err == nil && !ok {
					err = problem.New("DS-NOT-CONFIRMED", problem.Failure, nil, "not deleted", "the image is as it was", "")
				}
				if err != nil {
					return err
				}
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error { return c.DeleteImage(cmd.Context(), args[0]) })
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
