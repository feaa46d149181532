package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"disksync/internal/cli"
	"disksync/internal/durable"
	"disksync/internal/problem"
	"disksync/synchronizer"
)

// memoryGoal makes the collector work harder before the process grows beyond it, in bytes.
const memoryGoal = 384 << 20

func newServe(o *options) *cobra.Command {
	var listen string
	var transfers int
	var verbose bool
	c := &cobra.Command{
		Use: "serve", Short: "Run the Synchronizer", Args: cobra.NoArgs,
		Long: `Runs the Synchronizer until it is interrupted. The first start makes the data folder, the catalog, a TLS
key and a key that signs manifests. When it listens it prints one line with its address and the
fingerprint of its TLS key, which users compare when they register.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetMemoryLimit(memoryGoal)
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			dir, _ := o.dataDir()
			s, err := openData(cmd.Context(), synchronizer.Options{
				Dir: dir, MaxTransfers: transfers,
				Log: cli.Log(os.Stderr, os.Getenv, level),
			})
			if errors.Is(err, durable.ErrLocked) {
				return problem.New("DS-IN-USE", problem.Busy, err, "cannot serve "+dir, "nothing was changed",
					"end the other process, or use another folder")
			}
			if err != nil {
				return err
			}
			return errors.Join(serve(cmd, s, listen), s.Close())
		},
	}
	c.Flags().StringVar(&listen, "listen", "0.0.0.0:8443", "`address` and port for endpoints")
	c.Flags().IntVar(&transfers, "max-transfers", 50, "downloads at once before others are told to wait")
	c.Flags().BoolVar(&verbose, "verbose", false, "log refused requests too")
	return c
}

// openData opens the data folder. That another process has it is the caller's to explain.
func openData(ctx context.Context, o synchronizer.Options) (*synchronizer.Server, error) {
	s, err := synchronizer.Open(ctx, o)
	if err != nil && !errors.Is(err, durable.ErrLocked) {
		err = problem.New("DS-DATA", problem.Failure, err, "cannot open the data folder "+o.Dir, "nothing was changed",
			"work as the user whose folder it is, or name another one with --data")
	}
	return s, err
}

// notifySocket is the variable in which systemd names the socket that it waits on (sd_notify(3)).
const notifySocket = "NOTIFY_SOCKET"

// tellSystemd says on a socket of the file system, or with a leading @ of the abstract space, that the service is ready. Where no socket is
// named nobody waits.
func tellSystemd(socket string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}

func serve(cmd *cobra.Command, s *synchronizer.Server, listen string) error {
	local, err := s.ListenLocal()
	if err != nil {
		return err
	}
	defer local.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		exit := problem.Failure
		if errors.Is(err, syscall.EADDRINUSE) {
			exit = problem.Busy
		}
		return problem.New("DS-LISTEN", exit, err, "cannot listen", "what is in the data folder is as it was", "give another address with --listen")
	}
	fmt.Fprintf(cmd.OutOrStdout(), "listening https://%s fingerprint %s\n", l.Addr(), s.Fingerprint())
	if err := tellSystemd(os.Getenv(notifySocket)); err != nil {
		return errors.Join(fmt.Errorf("tell systemd that the service is ready: %w", err), l.Close())
	}
	return s.Serve(cmd.Context(), local, l)
}
