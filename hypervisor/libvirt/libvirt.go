// Package libvirt gives domains to libvirt, over the socket of its daemon.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	lib "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// System is the URI of the libvirt of the machine; Session that of a user's own.
const (
	System  = "qemu:///system"
	Session = "qemu:///session"
)

// connectTime is how long the daemon may take to answer; where systemd starts it on demand that includes its start.
const connectTime = 30 * time.Second

// Define defines a domain, or changes the definition of the one that has its uuid. A domain that runs goes on as it is; it has the
// new definition when it is started next. uri is that of libvirt's documents, with the name of a socket as its parameter "socket" when
// it is not the usual one; empty: [System].
func Define(ctx context.Context, uri, domain string) error {
	return with(ctx, uri, func(l *lib.Libvirt) error {
		_, err := l.DomainDefineXMLFlags(domain, lib.DomainDefineValidate)
		return err
	})
}

// Undefine takes a definition back. A domain that runs goes on until it ends. It is no error when there is none.
func Undefine(ctx context.Context, uri string, id [16]byte) error {
	return with(ctx, uri, func(l *lib.Libvirt) error {
		d, err := l.DomainLookupByUUID(id)
		if err == nil {
			// Its variables of UEFI are the VM's.
			err = l.DomainUndefineFlags(d, lib.DomainUndefineKeepNvram)
		}
		if lib.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// Resume lets a domain go on that is paused because a disk could not be read or written; whoever paused it for another reason does not
// want that. It reports whether it did.
func Resume(ctx context.Context, uri string, id [16]byte) (resumed bool, err error) {
	err = with(ctx, uri, func(l *lib.Libvirt) error {
		d, err := l.DomainLookupByUUID(id)
		if err != nil {
			return err
		}
		state, reason, err := l.DomainGetState(d, 0)
		if err != nil || lib.DomainState(state) != lib.DomainPaused || lib.DomainPausedReason(reason) != lib.DomainPausedIoerror {
			return err
		}
		resumed = true
		return l.DomainResume(d)
	})
	return resumed, err
}

func with(ctx context.Context, uri string, do func(l *lib.Libvirt) error) error {
	if uri == "" {
		uri = System
	}
	name, path, err := parse(uri)
	if err != nil {
		return err
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("libvirt at %s: %w", uri, err)
	}
	defer conn.Close()
	// The library waits for answers without an end of its own.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	connected := make(chan struct{})
	l := lib.NewWithDialer(dialers.NewAlreadyConnected(heldEnd{conn, connected}))
	err = l.ConnectToURI(name)
	close(connected)
	if err != nil {
		return fmt.Errorf("libvirt at %s: %w", uri, err)
	}
	err = do(l)
	if closeErr := l.Disconnect(); err == nil && ctx.Err() == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("libvirt at %s: %w", uri, err)
	}
	return nil
}

// parse returns what the daemon calls a connection, and its socket.
func parse(uri string) (lib.ConnectURI, string, error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "qemu" || u.Host != "" || u.Path != "/system" && u.Path != "/session" {
		return "", "", fmt.Errorf("%.100q is no URI of a libvirt of this machine: want %s or %s", uri, System, Session)
	}
	path := u.Query().Get("socket")
	if path == "" {
		switch dir := os.Getenv("XDG_RUNTIME_DIR"); {
		case u.Path == "/system":
			path = "/run/libvirt/libvirt-sock"
		case dir == "":
			return "", "", errors.New("there is no XDG_RUNTIME_DIR, in which the socket of a user's libvirt is")
		default:
			path = dir + "/libvirt/libvirt-sock"
		}
	}
	return lib.ConnectURI(u.Scheme + "://" + u.Path), path, nil
}
