package main

import (
	"context"

	"github.com/spf13/cobra"

	"disksync/diskmap"
	"disksync/internal/cli"
	"disksync/internal/mediachild"
)

// newReadMedia is the child that finds out what of a disk is free. Users have no need of it.
func newReadMedia() *cobra.Command {
	return &cobra.Command{
		Use: mediachild.Argument, Short: "Read a disk that is published", Args: cobra.NoArgs, Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return cli.UsageError("%v", mediachild.Serve(mediachild.Readers{Map: diskmap.Scan}))
		},
	}
}

// findFree has a child find out what of a disk is free: what is on it is up to whoever used it.
func findFree(ctx context.Context, disk diskmap.Disk) (*diskmap.Map, error) {
	return mediachild.Map(ctx, disk, mediachild.Options{})
}
