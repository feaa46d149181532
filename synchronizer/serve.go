package synchronizer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// SocketName is the name of the administrators' socket in the data folder.
const SocketName = "admin.sock"

// Times of the HTTP server. There is none for a whole request: a transfer may take days.
const (
	headerTime = 20 * time.Second
	idleTime   = 3 * time.Minute
	drainTime  = 10 * time.Second
)

// Serve serves administrators on the local listener (see [Server.ListenLocal]) and callers on the network, where the
// listener is not nil, until ctx ends. Requests that run then get a few seconds to finish.
func (s *Server) Serve(ctx context.Context, local, network net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	s.serveOn(ctx, g, local, s.local)
	if network != nil {
		config := &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
		s.serveOn(ctx, g, tls.NewListener(network, config), s)
	}
	return g.Wait()
}

func (s *Server) serveOn(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// A request must not outlive the data folder, whatever its caller does.
		BaseContext: func(net.Listener) context.Context { return s.live },
		// A frame counts when it is whole, so a cut line loses the last one: small frames lose little.
		HTTP2: &http.HTTP2Config{MaxReadFrameSize: 16 << 10},
	}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if err := srv.Shutdown(drain); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// ListenLocal listens on the socket in the data folder, in place of one that a process left behind. Only the folder's owner
// can open it.
func (s *Server) ListenLocal() (net.Listener, error) {
	dir := s.dir
	short, done, err := shortPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(filepath.Join(dir, SocketName)); err != nil && !errors.Is(err, os.ErrNotExist) { //nolint:forbidigo // a socket is no persistent file
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(short, SocketName))
	if err != nil {
		return nil, fmt.Errorf("administrators' socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the short path means nothing later
	if err := os.Chmod(filepath.Join(dir, SocketName), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// shortPath returns another path to dir that fits into a socket's address, which has room for 108 bytes.
func shortPath(dir string) (string, func(), error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { unix.Close(fd) }, nil
}
