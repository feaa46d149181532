package main

import (
	"fmt"
	"os"

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
	return cli.Group("media", "Bring versions onto sticks",
		newLocate(o), newWrite(o))
}

// which are the flags that name a version, with the letters of the original's console command.
type which struct {
	name    string
	version string
}

func (w *which) flags(c *cobra.Command) {
	c.Flags().StringVarP(&w.name, "name", "n", "", "name of the `image`")
	c.Flags().StringVarP(&w.version, "version", "v", "", "`version`; without it the newest")
}

// resolve returns the version, looking up the newest when none is named.
func (w *which) resolve(cmd *cobra.Command, c *syncclient.Client) (image.Version, error) {
	if w.version != "" {
		v, err := image.ParseVersion(w.version)
		if err != nil {
			return 0, cli.UsageError("%v", err)
		}
		return v, nil
	}
	im, err := c.Image(cmd.Context(), w.name)
	if err != nil {
		return 0, err
	}
	if len(im.Versions) == 0 {
		return 0, &api.Error{Code: api.CodeNotFound, Message: w.name + " has no version"}
	}
	return im.Versions[len(im.Versions)-1].Version, nil
}

func newLocate(o *options) *cobra.Command {
	var w which
	c := listCommand(o, "locate -n IMAGE -v VERSION", "Print the files to copy to a medium by hand", cobra.NoArgs,
		func(cmd *cobra.Command, c *syncclient.Client, _ []string) ([]api.MediaFile, error) {
			if w.name == "" {
				return nil, cli.UsageError("name an image with -n")
			}
			v, err := w.resolve(cmd, c)
			if err != nil {
				return nil, err
			}
			return c.MediaFiles(cmd.Context(), w.name, v)
		},
		[]string{"ROLE", "SIZE", "BYTES", "PATH"},
		func(f api.MediaFile) []string {
			return []string{string(f.Role), progress.Bytes(f.Length), fmt.Sprint(f.Length), f.Path}
		})
	w.flags(c)
	return c
}

func newWrite(o *options) *cobra.Command {
	var w which
	var to string
	var asJSON bool
	c := &cobra.Command{
		Use: "write -n IMAGE -v VERSION --to FOLDER", Short: "Write a version to a medium and check it", Args: cobra.NoArgs,
		Long: `Writes what an endpoint needs of a version to a folder, such as the mount point of a stick, and reads it
back. Files that are there already and are good stay as they are. The endpoint finds them whatever they
are called, in the root of the medium or up to two folders below.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if w.name == "" || to == "" {
				return cli.UsageError("name an image with -n and a folder with --to")
			}
			meter := progress.New(os.Stderr)
			defer meter.Done()
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				v, err := w.resolve(cmd, c)
				if err != nil {
					return err
				}
				res, err := media.Write(cmd.Context(), c, media.Options{
					Image: w.name, Version: v, Dir: to,
					Progress: func(stage string, done, total int64) { meter.Show(stage, done, total, "") },
				})
				if err != nil {
					return err
				}
				meter.Done()
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), res)
				}
				for _, f := range res.Files {
					did := "was there, verified"
					if f.Written {
						did = "written, verified"
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s, %d blocks\n", problem.Printable(f.Path), progress.Bytes(f.Length), did, f.Blocks)
				}
				return nil
			})
		},
	}
	w.flags(c)
	c.Flags().StringVar(&to, "to", "", "`folder` to write to")
	o.addLimit(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return c
}
