package main

import (
	"github.com/spf13/cobra"

	"disksync/diskmap"
	"disksync/internal/cli"
	"disksync/internal/mediachild"
	"disksync/volume/detect"
)

// newReadMedia is the child that reads devices, image files, and disks for the service. Users have no need of it.
func newReadMedia() *cobra.Command {
	return &cobra.Command{
		Use: mediachild.Argument, Short: "Read a medium or a disk for the service", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return cli.UsageError("%v", mediachild.Serve(mediachild.Readers{Volumes: detect.Volumes, Map: diskmap.Scan}))
		},
	}
}
