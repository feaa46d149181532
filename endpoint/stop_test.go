package endpoint_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/problem"
	"disksync/internal/process"
	"disksync/internal/testkit"
	"disksync/internal/testkit/guest"
)

// stopVM asks the VM to shut down.
func (g *guests) stopVM() error { return g.e.StopVM(g.Context(), "vm", false) }

// patient restarts the service as one that gives guests so long to shut down, and their agents so long to answer, and returns the console
// of the VM.
func (g *guests) patient(powerDown, agentTime time.Duration) *guest.Console {
	g.Helper()
	g.powerDown, g.agentTime = powerDown, agentTime
	g.restart()
	c := g.console()
	c.Settle()
	return c
}

// TestGuestStops: a guest shuts down in order when its agent or its power button tells it to. One that listens to neither goes on, and
// whoever asked is told so; to end it by force nobody has to wait.
func TestGuestStops(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Static, image.Machine{Memory: 192, CPUs: 1, Network: image.NoNetwork})
	for _, by := range []struct {
		listens, deafen string
		agentTime       time.Duration
	}{{"agent", "true", time.Hour}, {"power button", "no_agent", time.Second}} {
		g.boot(endpoint.RunOptions{})
		c := g.patient(time.Hour, by.agentTime)
		c.Do("echo not synced >>/mnt/data/lines; " + by.deafen)
		if err := g.stopVM(); err != nil {
			t.Fatalf("%s: %v", by.listens, err)
		}
		c.Gone()
		if !strings.Contains(c.Log(), "disksync guest: "+by.listens+"\n") {
			t.Errorf("the guest was not told by its %s:\n%s", by.listens, c.Log())
		}
		if st := g.vm().Run.State; st != endpoint.VMStopped {
			t.Errorf("told by its %s: the VM is %s", by.listens, st)
		}
		guest.CheckClean(t, guest.Root(g.raw()))
	}
	c := g.boot(endpoint.RunOptions{})
	if got := c.Do("cat /mnt/data/lines"); got != "not synced\nnot synced" {
		t.Errorf("after two stops there is %q", got)
	}
	c.Do("no_agent; no_button")
	c = g.patient(3*time.Second, time.Second)
	err := g.stopVM()
	if p := problem.Of(err); p.Code != "DS-STILL-RUNNING" || p.Exit != problem.Busy || !strings.Contains(p.Error(), "still runs after 3s") ||
		strings.Contains(p.Error(), "deadline") || !strings.Contains(p.Next, "`stop --force vm`") || p.Safe == "" {
		t.Errorf("a guest that does not listen: %v, safe: %s, next: %s", p, p.Safe, p.Next)
	}
	if got := c.Do("echo it goes on"); got != "it goes on" {
		t.Errorf("after a stop that failed the guest says %q", got)
	}
	c.WriteFiles("/mnt/data/f", 1, 3, 1000)
	g.patient(time.Hour, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 2)
	go func() { asked <- g.e.StopVM(ctx, "vm", false) }()
	cancel()
	if err := <-asked; problem.Of(err).Code != "DS-INTERRUPTED" {
		t.Errorf("a stop that was given up: %v", err)
	}
	go func() { asked <- g.stopVM() }()
	if err := g.e.StopVM(t.Context(), "vm", true); err != nil {
		t.Errorf("by force while somebody waits: %v", err)
	}
	if err := <-asked; err != nil && code(t, err) != "DS-NOT-RUNNING" {
		t.Errorf("who waited got %v", err)
	}
	c = g.boot(endpoint.RunOptions{})
	c.CheckFiles("/mnt/data/f", 1, 3, 1000)
	g.off(c)
}

// TestGuestStopsWithoutDisk: a guest that a failing disk holds cannot shut down. Whoever asks is told so soon; the guest goes on when the
// disk is mended.
func TestGuestStopsWithoutDisk(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Static, image.Machine{Memory: 192, CPUs: 1, Network: image.NoNetwork})
	g.powerDown, g.agentTime = time.Hour, time.Hour
	g.restart()
	c := g.boot(endpoint.RunOptions{})
	golden := g.vm().Disks[0].Base
	content, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(golden, 64<<10); err != nil {
		t.Fatal(err)
	}
	c.Send("echo 3 >/proc/sys/vm/drop_caches; sha256sum </dev/vda1")
	paused := func() bool { return g.vm().Run.State == endpoint.VMPaused }
	testkit.Until(t, "the guest is paused", paused)
	p := problem.Of(g.stopVM())
	if p == nil || p.Code != "DS-STILL-RUNNING" || !strings.Contains(p.Error(), "cannot be read or written") || !strings.Contains(p.Next, "--force") {
		t.Fatalf("stop said %v", p)
	}
	if !paused() {
		t.Error("the VM is not paused any more")
	}
	f, err := os.OpenFile(golden, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := bytes.NewReader(content).WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if info, err := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{}); err != nil || info.Run.State != endpoint.VMRunning {
		t.Fatalf("it goes on as %+v, %v", info.Run, err)
	}
	if sum := c.Finish(); len(strings.Fields(sum)) != 2 {
		t.Errorf("the guest read %q", sum)
	}
	if err := g.stopVM(); err != nil {
		t.Error(err)
	}
	guest.CheckClean(t, guest.Root(g.raw()))
}

// TestGuestStranded: a guest whose disks the next service cannot open waits for them, and nobody takes its VM for one that is stopped. When
// they are mended it goes on; by force it can be ended.
func TestGuestStranded(t *testing.T) {
	t.Parallel()
	g := newGuests(t, image.Static, image.Machine{Memory: 192, CPUs: 1, Network: image.NoNetwork})
	g.boot(endpoint.RunOptions{})
	golden := g.vm().Disks[0].Base
	if err := os.Truncate(golden, 64<<10); err != nil {
		t.Fatal(err)
	}
	g.restart()
	if vm := g.vm(); vm.Run.State != endpoint.VMPaused || vm.Run.Pid == 0 || !strings.Contains(vm.Waits, "system disk of VM vm: ") {
		t.Errorf("the VM is %+v", vm)
	}
	_, exported := g.e.Export(t.Context(), "vm", image.System, nil, nil)
	_, rolled := g.e.RollBack("vm")
	for what, err := range map[string]error{"remove": g.e.Remove("vm"), "roll back": rolled, "export": exported} {
		if code(t, err) != "DS-RUNNING" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := g.e.Store().Renew("vm", map[image.Role]bool{image.System: true}); code(t, err) != "DS-RUNNING" {
		t.Errorf("the store would begin anew: %v", err)
	}
	if _, s := g.fail(endpoint.Request{Kind: endpoint.Backup, VM: "vm"}); s.Problem.Code != "DS-STRANDED" {
		t.Errorf("a backup said %+v", s.Problem)
	}
	_, started := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{})
	for what, err := range map[string]error{"run": started, "stop": g.stopVM(), "console": g.e.HasConsole("vm")} {
		if p := problem.Of(err); p == nil || p.Code != "DS-STRANDED" || !strings.Contains(p.Next, "verify vm --repair") || !strings.Contains(p.Next, "--force") {
			t.Errorf("%s: %v", what, p)
		}
	}
	g.finish(endpoint.Request{Kind: endpoint.Repair, VM: "vm"})
	if _, err := g.e.RunVM(t.Context(), "vm", endpoint.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	c := g.console()
	c.Settle()
	if got := c.Do("sha256sum </dev/vda1 >/dev/null && echo it goes on"); got != "it goes on" {
		t.Errorf("the guest says %q", got)
	}
	// A record that cannot be read does not hide it either.
	g.close()
	for _, name := range g.files("running", ".json") {
		g.write(filepath.Join(g.dir, "running", name), []byte("{"))
	}
	g.open()
	c = g.console()
	c.Settle()
	c.Do("sync")
	if err := os.Truncate(golden, 64<<10); err != nil {
		t.Fatal(err)
	}
	g.restart()
	pid := g.vm().Run.Pid
	if err := g.e.StopVM(t.Context(), "vm", true); err != nil {
		t.Fatal(err)
	}
	if run := g.vm().Run; run.State != endpoint.VMStopped {
		t.Errorf("the VM is %+v", run)
	}
	if id, err := process.Of(pid); err == nil && id.Alive() {
		t.Error("its process is there")
	}
}
