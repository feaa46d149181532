package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
)

// Log returns a log of lines with their time and level; when w is connected with systemd's journal, which notes both by itself, of lines that
// tell it the level in its own way (sd-daemon(3)). Then `journalctl -p warning` finds what went wrong. It is safe for concurrent use, and
// each line is one write.
func Log(w *os.File, getenv func(string) string, level slog.Leveler) *slog.Logger {
	if !toJournal(w, getenv) {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(newJournal(w, level))
}

// toJournal reports whether a file is the one that systemd has connected with the journal. The variable alone says nothing: it is handed
// on to programs whose output goes elsewhere.
func toJournal(w *os.File, getenv func(string) string) bool {
	info, err := w.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journal writes lines for the journal: one handler for each of the severities below.
type journal [4]slog.Handler

// severities are those of syslog, from debug to error.
var severities = [len(journal{})]string{"<7>", "<6>", "<4>", "<3>"}

func newJournal(w io.Writer, level slog.Leveler) (j journal) {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		_, level := a.Value.Any().(slog.Level)
		if len(groups) == 0 && (a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime || a.Key == slog.LevelKey && level) {
			return slog.Attr{}
		}
		return a
	}}
	for i, s := range severities {
		j[i] = slog.NewTextHandler(before{w, s}, o)
	}
	return j
}

// before writes something before each line.
type before struct {
	io.Writer
	text string
}

func (b before) Write(line []byte) (int, error) {
	if _, err := b.Writer.Write(append([]byte(b.text), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (j journal) of(l slog.Level) slog.Handler {
	switch {
	case l < slog.LevelInfo:
		return j[0]
	case l < slog.LevelWarn:
		return j[1]
	case l < slog.LevelError:
		return j[2]
	}
	return j[3]
}

// Enabled implements slog.Handler.
func (j journal) Enabled(ctx context.Context, l slog.Level) bool { return j.of(l).Enabled(ctx, l) }

// Handle implements slog.Handler.
func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j.of(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (j journal) WithAttrs(a []slog.Attr) slog.Handler {
	for i := range j {
		j[i] = j[i].WithAttrs(a)
	}
	return j
}

// WithGroup implements slog.Handler.
func (j journal) WithGroup(name string) slog.Handler {
	for i := range j {
		j[i] = j[i].WithGroup(name)
	}
	return j
}
