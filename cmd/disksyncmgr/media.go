package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"disksync/endpoint"
	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/hotplug"
	"disksync/internal/progress"
)

// watchMedia has an engine know of media that come and go.
func watchMedia(log *slog.Logger) func(durable.FS) endpoint.Hotplug {
	return func(fsys durable.FS) endpoint.Hotplug {
		return hotplug.New(hotplug.Options{Getenv: os.Getenv, Log: log, FS: fsys, Grace: hotplug.DefaultGrace})
	}
}

func newMedia(o *options) *cobra.Command {
	var asJSON bool
	var folders []string
	var name string
	c := &cobra.Command{
		Use: "media", Short: "List removable media and what is on them", Args: cobra.NoArgs,
		Long: `Lists what is in: how it is read, which images it has something of, how much of a download it saves, and
what went wrong with it since the service started.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.with(cmd.Context(), func(d door) error {
				named, err := absolute(folders)
				if err != nil {
					return err
				}
				rep, err := d.Media(cmd.Context(), named, name)
				if err != nil {
					return err
				}
				for _, n := range rep.Notes {
					printLine(cmd.ErrOrStderr(), "note: %s", n)
				}
				if asJSON {
					return cli.JSON(cmd.OutOrStdout(), rep.Media)
				}
				printMedia(cmd.OutOrStdout(), rep.Media)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().StringArrayVar(&folders, "media", nil, "also look in this `place`: a folder, a device or an image file; may be repeated")
	c.Flags().StringVar(&name, "image", "", "what would be saved of this `image`; without it, of all that are assigned to you")
	return c
}

func printMedia(w io.Writer, media []endpoint.MediumInfo) {
	if len(media) == 0 {
		printLine(w, "no removable media")
	}
	for _, m := range media {
		printMedium(w, m)
	}
}

func printMedium(w io.Writer, m endpoint.MediumInfo) {
	printLine(w, "%s (%s)", m.Place(), strings.Join(describe(m), ", "))
	if m.Found != "" {
		printLine(w, "  found: %s", m.Found)
	}
	for _, i := range m.Images {
		version := "an older version"
		if i.Version != 0 {
			version = fmt.Sprintf("version %d", i.Version)
		}
		printLine(w, "  of %s: %s, %s disk", i.Image, version, i.Role)
	}
	for _, id := range m.Layers {
		printLine(w, "  layer %s of an image that is not known here", id.Short())
	}
	for _, s := range m.Saves {
		printLine(w, "  saves %s of version %d of %s", progress.Bytes(s.Bytes), s.Version, s.Image)
	}
	if h := m.Health; h.ReadErrors+h.BadBlocks > 0 {
		printLine(w, "  health: %s, %s; the last: %s", count(h.ReadErrors, "read error"), count(h.BadBlocks, "bad block"), h.Last)
	}
	for _, n := range m.Notes {
		printLine(w, "  %s", n)
	}
}

// describe says what a medium is, in a few words.
func describe(m endpoint.MediumInfo) []string {
	words := []string{string(m.Kind)}
	if m.Label != "" {
		words = append(words, fmt.Sprintf("%q", m.Label))
	}
	if m.Size > 0 {
		words = append(words, progress.Bytes(m.Size))
	}
	if m.FS != "" {
		words = append(words, m.FS)
	}
	switch {
	case m.Read == endpoint.ReadDevice:
		words = append(words, "not mounted, read from the device")
	case m.Device != "":
		words = append(words, m.Device)
	default:
		words = append(words, "a folder")
	}
	if !m.Used {
		words = append(words, "turned off")
	}
	return words
}
