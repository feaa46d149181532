package cli_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"disksync/internal/cli"
)

// TestLog: the journal is told the level of each line in its own way, and nothing that it notes itself; anybody else gets both.
func TestLog(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no device and inode here")
	}
	said := func(stream string) string {
		t.Helper()
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		level := new(slog.LevelVar)
		log := cli.Log(f, func(name string) string { return map[string]string{"JOURNAL_STREAM": stream}[name] }, level).With("vm", "desk")
		log.Debug("hidden")
		log.Info("begun")
		level.Set(slog.LevelDebug)
		log.Debug("shown")
		log.Warn("slow", "level", 3)
		log.WithGroup("g").Error("failed", "error", errors.New("odd\nerror"), "time", "t")
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := "<6>msg=begun vm=desk\n<7>msg=shown vm=desk\n<4>msg=slow vm=desk level=3\n<3>msg=failed vm=desk g.error=\"odd\\nerror\" g.time=t\n"
	if got := said(fmt.Sprintf("%d:%d", st.Dev, st.Ino)); got != want {
		t.Errorf("to the journal: %s, want %s", got, want)
	}
	for _, other := range []string{"", fmt.Sprintf("%d:%d", st.Dev, st.Ino+1)} {
		if got := said(other); strings.Contains(got, "<") || strings.Count(got, "time=") != 5 || !strings.Contains(got, "level=WARN msg=slow") {
			t.Errorf("with JOURNAL_STREAM=%q: %s", other, got)
		}
	}
}
