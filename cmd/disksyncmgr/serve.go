package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"disksync/config"
	"disksync/dbusapi"
	"disksync/endpoint"
	"disksync/internal/busconn"
	"disksync/internal/cli"
	"disksync/internal/metered"
	"disksync/internal/problem"
)

func newServe(o *options) *cobra.Command {
	var group string
	c := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: cobra.NoArgs,
		Long: `Runs the service on the system bus, or with --session on the session bus, until it is interrupted.
It prints one line when it answers. Operations that were left unfinished go on.

Everybody may look; root, the service's own user and members of the group may change things.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, o, group) },
	}
	c.Flags().StringVar(&group, "group", "disksync", "`group` whose members may change settings and run operations")
	return c
}

func serve(cmd *cobra.Command, o *options, group string) error {
	ctx := cmd.Context()
	saveMemory()
	level := new(slog.LevelVar)
	log := cli.Log(os.Stderr, os.Getenv, level)
	dir, _ := o.stateDir()
	e, err := endpoint.Open(ctx, endpoint.Options{Dir: dir, Log: log, Hotplug: watchMedia(log)})
	if err != nil {
		return err
	}
	level.Set(logLevel(e.Settings()))
	watching, stop := context.WithCancel(ctx)
	watched := metered.Watch(watching, os.Getenv, log, e.Metered)
	conn, err := busconn.Connect(ctx, o.session, os.Getenv)
	if err != nil {
		stop()
		watched()
		err = problem.New("DS-NO-BUS", problem.Unreachable, err, "cannot serve", "nothing was changed", "is the bus running? --session uses the session bus")
		return errors.Join(err, e.Close())
	}
	err = dbusapi.Serve(ctx, conn, e, dbusapi.Options{
		Group: group, Log: log,
		Ready: func() { fmt.Fprintf(cmd.OutOrStdout(), "serving %s\n", dbusapi.Service) },
	})
	// The connection first: nobody may call an engine that is closed. How it closes says nothing new.
	conn.Close()
	stop()
	watched()
	return errors.Join(err, e.Close())
}

// logLevel turns the original's setting, a syslog severity, into a level. It holds from the start of the service on.
func logLevel(s config.Settings) slog.Level {
	switch n := s.Int(config.LogLevel); {
	case n <= 3:
		return slog.LevelError
	case n <= 4:
		return slog.LevelWarn
	case n <= 6:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
