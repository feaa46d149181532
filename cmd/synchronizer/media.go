package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/media"
	"disksync/syncclient"
)

func newMedia(o *options) *cobra.Command {
	return cli.Group("media", "Bring versions onto sticks and discs",
		newLocate(o), newWrite(o), newRefresh(o), newVerifyMedium(o))
}

// which are the flags that name versions, with the letters of the original's console command.
type which struct {
	name     string
	versions []string
	group    string
}

func (w *which) flags(c *cobra.Command) {
	c.Flags().StringVarP(&w.name, "name", "n", "", "name of the `image`")
	c.Flags().StringSliceVarP(&w.versions, "version", "v", nil, "`version`, or several as 1,3; without it the newest")
}

// wants returns the versions that were named.
func (w *which) wants(cmd *cobra.Command, c *syncclient.Client) ([]media.Want, error) {
	if w.group != "" {
		return media.GroupWants(cmd.Context(), c, w.group)
	}
	versions, err := parseVersions(w.versions)
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		versions = []image.Version{0}
	}
	var out []media.Want
	for _, v := range versions {
		out = append(out, media.Want{Image: w.name, Version: v})
	}
	return out, nil
}

func parseVersions(words []string) ([]image.Version, error) {
	var out []image.Version
	for _, s := range words {
		v, err := image.ParseVersion(s)
		if err != nil {
			return nil, cli.UsageError("%v", err)
		}
		out = append(out, v)
	}
	return out, nil
}

// located is a file to copy by hand.
type located struct {
	api.MediaFile
	URL string `json:"url,omitempty"` // where the Synchronizer gives it to administrators over the network
}

func newLocate(o *options) *cobra.Command {
	var w which
	c := listCommand(o, "locate -n IMAGE -v VERSION", "Print the files to copy to a medium by hand", cobra.NoArgs,
		func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]located, error) {
			if w.name == "" {
				return nil, cli.UsageError("name an image with -n")
			}
			wants, err := w.wants(cmd, c)
			if err != nil {
				return nil, err
			}
			return o.locate(cmd, c, wants)
		},
		[]string{"ROLE", "SIZE", "BYTES", "PATH"},
		func(f located) []string {
			place := f.Path
			if f.URL != "" {
				place = f.URL
			}
			return []string{string(f.Role), progress.Bytes(f.Length), fmt.Sprint(f.Length), place}
		})
	w.flags(c)
	return c
}

// locate lists the files of versions, each once.
func (o *options) locate(cmd *cobra.Command, c *syncclient.Client, wants []media.Want) ([]located, error) {
	base, err := o.networkBase()
	if err != nil {
		return nil, err
	}
	out := []located{}
	seen := map[image.LayerID]bool{}
	for _, want := range wants {
		if want.Version == 0 {
			if want.Version, err = media.Newest(cmd.Context(), c, want.Image); err != nil {
				return nil, err
			}
		}
		files, err := c.MediaFiles(cmd.Context(), want.Image, want.Version)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if seen[f.Layer] {
				continue
			}
			seen[f.Layer] = true
			l := located{MediaFile: f}
			if base != "" {
				l.URL = strings.TrimSuffix(base, "/") + "/" + api.Version + "/layers/" + f.Layer.String()
			}
			out = append(out, l)
		}
	}
	return out, nil
}

// networkBase returns the URL of the Synchronizer that commands go to over the network, "" when they go to a data folder.
func (o *options) networkBase() (string, error) {
	if _, named := o.dataDir(); named {
		return "", nil
	}
	l, err := loadLogin()
	if err != nil || l == nil {
		return "", err
	}
	return l.URL, nil
}

// writing are the flags of commands that write media.
type writing struct {
	which
	to, image, size, partSize string
	from                      []string
	direct, plain, split      bool
	encrypt, newKey, prune    bool
	json                      bool
}

const aboutWriting = `Writes what an endpoint needs of versions to a folder, such as the mount point of a stick, or to an image
of a disc, and reads it back. The layers are those that have the fewest bytes together: a full image of
the newest version in place of all that lead there, where the Synchronizer has one. Files that are there
already and are good stay as they are. Interrupted, the same command goes on in the middle of a file. The
endpoint finds files whatever they are called, in the root of the medium or up to two folders below.`

func newWrite(o *options) *cobra.Command {
	var w writing
	c := &cobra.Command{
		Use: "write (-n IMAGE | --group GROUP) (--to FOLDER | --image FILE)", Short: "Write versions to a medium and check it", Args: cobra.NoArgs, Long: aboutWriting,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (w.name == "") == (w.group == "") || (w.to == "") == (w.image == "") {
				return cli.UsageError("name an image with -n or a group with --group, and a folder with --to or a file with --image")
			}
			return o.writeMedia(cmd, &w)
		},
	}
	w.flags(c)
	f := c.Flags()
	f.StringVar(&w.group, "group", "", "everything that is assigned to this `group`, in place of an image")
	f.StringVar(&w.to, "to", "", "`folder` to write to")
	w.imageFlags(c)
	f.BoolVar(&w.direct, "direct", false, "only what leads from earlier versions to this one, for endpoints that have one")
	f.StringSliceVar(&w.from, "from", nil, "with --direct: from these `versions` only")
	f.BoolVar(&w.plain, "plain", false, "plain VHD files that any program reads")
	w.sealFlags(c)
	w.shared(o, c)
	return c
}

func (w *writing) imageFlags(c *cobra.Command) {
	c.Flags().StringVar(&w.image, "image", "", "write an image of a disc to this `file`, to be burned (ISO 9660 and UDF)")
	c.Flags().StringVar(&w.size, "size", "", "`size` of the discs: cd, dvd, dvd-dl, bd, or bytes as 4.7G (1000³) or 700MiB (1024²)")
	c.Flags().BoolVar(&w.split, "split", false, "with --size: as many images as it takes, FILE-1.iso, FILE-2.iso …")
}

func (w *writing) sealFlags(c *cobra.Command) {
	c.Flags().BoolVar(&w.encrypt, "encrypt", false, "encrypt everything; endpoints that may have the image get the key from the Synchronizer")
	c.Flags().BoolVar(&w.newKey, "new-key", false, "with --encrypt: make a new key of the image for this medium and later ones")
}

func (w *writing) shared(o *options, c *cobra.Command) {
	c.Flags().StringVar(&w.partSize, "part-size", "", "most `bytes` of a file, as 4G; without it what the file system takes")
	c.Flags().BoolVar(&w.prune, "prune", false, "remove what was written of these images before and is superseded")
	o.addLimit(c)
	c.Flags().BoolVar(&w.json, "json", false, "print the result as JSON")
}

// options reads the flags.
func (w *writing) options(meter *progress.Meter) (media.Options, error) {
	o := media.Options{
		Dir: w.to, Direct: w.direct, Encrypt: w.encrypt, NewKey: w.newKey, Prune: w.prune, Image: w.image, Split: w.split,
		Progress: func(stage string, done, total int64) { meter.Show(stage, done, total, "") },
	}
	var err error
	if o.From, err = parseVersions(w.from); err != nil {
		return o, err
	}
	switch {
	case w.plain && (w.direct || w.encrypt || w.image != "" || w.prune):
		return o, cli.UsageError("--plain goes with a folder only, and without --direct, --encrypt and --prune")
	case w.image == "" && (w.size != "" || w.split), w.split && w.size == "":
		return o, cli.UsageError("--split needs --size, and --size needs --image")
	case w.image != "" && (w.prune || w.partSize != ""):
		return o, cli.UsageError("--prune and --part-size are for folders")
	case w.newKey && !w.encrypt:
		return o, cli.UsageError("--new-key needs --encrypt")
	}
	for _, s := range []struct {
		text string
		to   *int64
	}{{w.size, &o.Size}, {w.partSize, &o.PartSize}} {
		if s.text == "" {
			continue
		}
		if *s.to, err = media.ParseSize(s.text); err != nil {
			return o, cli.UsageError("%v", err)
		}
	}
	return o, nil
}

func (o *options) writeMedia(cmd *cobra.Command, w *writing) error {
	meter := progress.New(os.Stderr)
	defer meter.Done()
	opts, err := w.options(meter)
	if err != nil {
		return err
	}
	return o.with(cmd.Context(), func(c *syncclient.Client) error {
		if opts.Want, err = w.wants(cmd, c); err != nil {
			return err
		}
		var res media.Result
		switch {
		case w.plain:
			res, err = media.WritePlain(cmd.Context(), c, opts)
		case w.image != "":
			res, err = media.WriteImage(cmd.Context(), c, opts)
		default:
			res, err = media.Write(cmd.Context(), c, opts)
		}
		meter.Done()
		return w.print(cmd.OutOrStdout(), res, err)
	})
}

// print prints what was written.
func (w *writing) print(out io.Writer, res media.Result, err error) error {
	if err != nil {
		return err
	}
	if w.json {
		return cli.JSON(out, res)
	}
	for _, f := range res.Files {
		did := "was there, verified"
		if f.Written {
			did = "written, verified"
		}
		what := ""
		if f.Part {
			what += ", a part"
		}
		if f.Sealed {
			what += ", encrypted"
		}
		if f.Resumed > 0 {
			what += fmt.Sprintf(", %d of them were there", f.Resumed)
		}
		fmt.Fprintf(out, "%s  %s  %s, %d blocks%s\n", problem.Printable(f.Path), progress.Bytes(f.Length), did, f.Blocks, what)
	}
	for _, name := range res.Removed {
		fmt.Fprintf(out, "%s  removed\n", problem.Printable(name))
	}
	for _, v := range res.Volumes {
		fmt.Fprintf(out, "%s  %s  to be burned\n", problem.Printable(v.Path), progress.Bytes(v.Length))
	}
	return nil
}

func newRefresh(o *options) *cobra.Command {
	var w writing
	c := &cobra.Command{
		Use: "refresh FOLDER", Short: "Bring a medium up to date", Args: cobra.ExactArgs(1),
		Long: `Adds the newest versions of the images that the medium has something of, in the same manner: encrypted
or not, for everybody or for endpoints that have an earlier version. Only what is new is written.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			meter := progress.New(os.Stderr)
			defer meter.Done()
			w.to = args[0]
			opts, err := w.options(meter)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				res, err := media.Refresh(cmd.Context(), c, opts)
				meter.Done()
				return w.print(cmd.OutOrStdout(), res, err)
			})
		},
	}
	w.shared(o, c)
	return c
}
