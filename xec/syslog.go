package xec

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"
	"unicode"
)

// syslogSocket is where the syslog daemon of every Linux system listens.
const syslogSocket = "/dev/log"

// Limits for the record of an invocation: a syslog daemon that is stuck must not
// hold xec up, and few accept long records.
const (
	syslogTime = 200 * time.Millisecond
	syslogSize = 2048
)

// syslogPriority is facility user (1), severity info (6).
const syslogPriority = 1<<3 | 6

// logInvocation tells syslog what was asked for, as an audit trail of changes. It
// is best effort: without a daemon nothing is logged and nobody is told. (Package
// log/syslog is not used because it can be made to wait for ever.)
func logInvocation(socket string, args []string, now time.Time) {
	conn, err := net.DialTimeout("unixgram", socket, syslogTime)
	if err != nil {
		return
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(syslogTime)); err != nil {
		return
	}
	text := fmt.Sprintf("<%d>%s xec[%d]: invoked with: %s",
		syslogPriority, now.Format(time.Stamp), os.Getpid(), oneLine(strings.Join(args, " ")))
	_, _ = conn.Write([]byte(text[:min(len(text), syslogSize)]))
}

// oneLine blanks out control characters, with which an argument could pass for
// another record.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
