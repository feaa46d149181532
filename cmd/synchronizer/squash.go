package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"disksync/api"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/progress"
	"disksync/syncclient"
)

// squashFlags are the flags of "image squash".
type squashFlags struct {
	from, to, role             string
	full, keep, remove, asJSON bool
}

// request reads the flags.
func (f *squashFlags) request() (api.NewSquash, error) {
	in := api.NewSquash{Keep: f.keep}
	if f.full == (f.from != "") {
		return in, cli.UsageError("name the version to start from with --from, or say --full")
	}
	for _, v := range []struct {
		text string
		to   *image.Version
	}{{f.from, &in.From}, {f.to, &in.To}} {
		if v.text == "" || v.text == "0" && v.to == &in.From {
			continue
		}
		var err error
		if *v.to, err = image.ParseVersion(v.text); err != nil {
			return in, cli.UsageError("%v", err)
		}
	}
	if in.To != 0 && in.From >= in.To {
		return in, cli.UsageError("a layer leads from nothing or an older version to a newer one, not from %d to %d", in.From, in.To)
	}
	if f.role != "" {
		if err := in.Role.UnmarshalText([]byte(f.role)); err != nil {
			return in, cli.UsageError("%v", err)
		}
	}
	return in, nil
}

func newSquash(o *options) *cobra.Command {
	var f squashFlags
	c := &cobra.Command{
		Use: "squash IMAGE --from VERSION", Short: "Make a layer that leads directly from one version to another", Args: cobra.ExactArgs(1),
		Long: `Makes a layer that leads directly from an older version to a newer one, for each disk, or with --full a full
image. Who has the older version then fetches one layer in place of all between, without what was changed
more than once. Nothing has to be signed or published again: endpoints find the cheapest way by themselves.

The Synchronizer does the work; when this command is interrupted, it goes on. A layer that would save
nothing worth while is not kept.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.request()
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(c *syncclient.Client) error {
				if f.remove {
					return removeLayers(cmd, c, args[0], in)
				}
				done, err := runSquash(cmd.Context(), c, args[0], in)
				if err != nil {
					return err
				}
				if f.asJSON {
					if err := cli.JSON(cmd.OutOrStdout(), done); err != nil {
						return err
					}
				} else {
					for _, q := range done {
						printSquash(cmd.OutOrStdout(), args[0], q)
					}
				}
				return squashError(done)
			})
		},
	}
	c.Flags().StringVar(&f.from, "from", "", "`version` to start from; 0 is the same as --full")
	c.Flags().StringVar(&f.to, "to", "", "`version` to lead to; the newest without it")
	c.Flags().BoolVar(&f.full, "full", false, "a full image, which starts from nothing")
	c.Flags().StringVar(&f.role, "role", "", "this `disk` only: system, application or user")
	c.Flags().BoolVar(&f.keep, "keep", false, "keep the layer even when it saves nothing worth while")
	c.Flags().BoolVar(&f.remove, "remove", false, "remove such layers; what versions were published with stays")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print the result as JSON")
	return c
}

// squashPoll is how often the Synchronizer is asked how far it is.
const squashPoll = 300 * time.Millisecond

// runSquash has layers made and waits until they are.
func runSquash(ctx context.Context, c *syncclient.Client, name string, in api.NewSquash) ([]api.Squash, error) {
	asked, err := c.Squash(ctx, name, in)
	if err != nil {
		return nil, err
	}
	meter := progress.New(os.Stderr)
	defer meter.Done()
	tick := time.NewTicker(squashPoll)
	defer tick.Stop()
	for {
		all, err := c.Squashes(ctx, name)
		if err != nil {
			return nil, err
		}
		var mine []api.Squash
		over := true
		for _, a := range asked {
			i := slices.IndexFunc(all, func(q api.Squash) bool { return q.From == a.From && q.To == a.To && q.Role == a.Role })
			if i < 0 {
				return nil, &api.Error{Code: api.CodeConflict, Message: "the Synchronizer has forgotten the work; it may have been started anew"}
			}
			q := all[i]
			mine, over = append(mine, q), over && q.State.Over()
			if q.Total > 0 && q.State == api.SquashRunning {
				meter.Show("squash "+string(q.Role), q.Done, q.Total, "")
			}
		}
		if over {
			return mine, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func squashError(done []api.Squash) error {
	var errs []error
	for _, q := range done {
		if q.Error != nil {
			errs = append(errs, q.Error)
		}
	}
	return errors.Join(errs...)
}

// fromTo names the ends of a layer.
func fromTo(from, to image.Version) string {
	if from == 0 {
		return fmt.Sprintf("a full image of version %d", to)
	}
	return fmt.Sprintf("version %d to %d", from, to)
}

func layers(n int) string {
	if n == 1 {
		return "1 layer"
	}
	return fmt.Sprintf("%d layers", n)
}

func printSquash(w io.Writer, name string, q api.Squash) {
	what := fmt.Sprintf("%s, %s disk, %s", name, q.Role, fromTo(q.From, q.To))
	path := fmt.Sprintf("%s with %s", layers(q.PathLayers), progress.Bytes(q.PathBytes))
	switch {
	case q.State == api.SquashUnchanged:
		fmt.Fprintf(w, "%s: the disk is the same in both\n", what)
	case q.State == api.SquashUseless:
		fmt.Fprintf(w, "%s: not kept, it saves nothing worth while: %d blocks in %s, and what leads there now is %s\n", what, q.Blocks,
			progress.Bytes(q.Bytes), path)
	case q.State == api.SquashStored && q.PathLayers == 1 && q.PathBytes == q.Bytes:
		fmt.Fprintf(w, "%s: there is such a layer already, with %s\n", what, progress.Bytes(q.Bytes))
	case q.State == api.SquashStored:
		fmt.Fprintf(w, "%s: %d blocks in %s (layer %s), in place of %s\n", what, q.Blocks, progress.Bytes(q.Bytes), q.Layer.Short(), path)
	}
}

// removeLayers removes the layers between two versions besides those of the manifests.
func removeLayers(cmd *cobra.Command, c *syncclient.Client, name string, in api.NewSquash) error {
	im, err := c.Image(cmd.Context(), name)
	if err != nil {
		return err
	}
	removed := 0
	for _, r := range extraLayers(im) {
		if r.FromVersion != in.From || in.To != 0 && r.ToVersion != in.To || in.Role != "" && r.role != in.Role {
			continue
		}
		if err := c.RemoveLayer(cmd.Context(), name, r.ID); err != nil {
			return err
		}
		removed++
		fmt.Fprintf(cmd.OutOrStdout(), "removed: %s, %s disk, %s, %s\n", name, r.role, fromTo(r.FromVersion, r.ToVersion), progress.Bytes(r.Length))
	}
	if removed == 0 {
		return &api.Error{Code: api.CodeNotFound, Message: "there is no such layer besides those that the versions were published with"}
	}
	return nil
}

// extraLayer is a layer besides those of the manifests, with the disk that it is of.
type extraLayer struct {
	api.Layer
	role image.Role
}

func extraLayers(im api.Image) []extraLayer {
	roles := map[image.StateID]image.Role{}
	for _, v := range im.Versions {
		for _, d := range v.Disks {
			roles[d.State] = d.Role
		}
	}
	var out []extraLayer
	for _, l := range im.Layers {
		out = append(out, extraLayer{l, roles[l.To]})
	}
	slices.SortStableFunc(out, func(a, b extraLayer) int {
		return cmp.Or(cmp.Compare(a.ToVersion, b.ToVersion), cmp.Compare(a.FromVersion, b.FromVersion))
	})
	return out
}

// printExtraLayers shows them below the versions.
func printExtraLayers(w io.Writer, im api.Image) error {
	if len(im.Layers) == 0 {
		return nil
	}
	var rows [][]string
	for _, l := range extraLayers(im) {
		from := "nothing"
		if l.FromVersion != 0 {
			from = l.FromVersion.String()
		}
		rows = append(rows, []string{from, l.ToVersion.String(), string(l.role), progress.Bytes(l.Length), l.ID.Short()})
	}
	fmt.Fprintln(w, "\nother ways:")
	return cli.Table(w, []string{"FROM", "TO", "ROLE", "BYTES", "LAYER"}, rows)
}
