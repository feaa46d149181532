package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
	"disksync/syncclient"
)

func newImage(o *options) *cobra.Command {
	return cli.Group("image", "Publish and look at images",
		newPublish(o), newImageList(o), newImageShow(o), newSquash(o), newPolicy(o), newImageDelete(o))
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
