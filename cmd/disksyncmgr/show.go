package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/cli"
	"disksync/internal/problem"
	"disksync/internal/progress"
)

// display turns the states of an operation into a bar or lines.
type display struct {
	meter *progress.Meter
	state endpoint.State
	notes int
	held  string
	queue bool // it was told that it waits for its turn
	got   bool // everything that is to be got, and it was shown
	stage string
	total int64 // of the stage
}

func newDisplay(m *progress.Meter) *display { return &display{meter: m} }

var stageNames = map[deploy.Stage]string{
	deploy.StageTransfer: "transfer", deploy.StageChecksum: "verify", deploy.StageInstall: "install",
	deploy.StagePack: "pack", deploy.StageUpload: "upload", deploy.StageMerge: "merge",
}

func (d *display) show(s endpoint.Status) {
	for ; d.notes < len(s.Notes); d.notes++ {
		d.meter.Note("%s", s.Notes[d.notes])
	}
	if s.State != d.state {
		d.state = s.State
		switch s.State {
		case endpoint.NetworkStalled:
			d.meter.Note("the line to the Synchronizer is interrupted; it is tried again, and nothing is lost")
		case endpoint.AdmctlStalled:
			d.meter.Note("the Synchronizer is busy and serves others first; waiting")
		}
	}
	if s.Queued && !d.queue {
		d.meter.Note("another operation is at work (`disksyncmgr status`); this one begins when that has ended")
		d.queue = true
	}
	if s.Progress.Held != d.held {
		if d.held = s.Progress.Held; d.held != "" {
			d.meter.Note("nothing is fetched now: %s; it goes on by itself", d.held)
		} else {
			d.meter.Note("it goes on")
		}
	}
	d.progress(s)
}

// progress shows a bar over everything that is to be got, then one over each stage behind it; for work that gets nothing, over
// its stages only.
func (d *display) progress(s endpoint.Status) {
	p := s.Progress
	if p.Stage == deploy.StageNone {
		return
	}
	stage := strings.TrimSpace(stageNames[p.Stage] + " " + string(p.Role))
	if p.PlanTotal > 0 {
		title := fmt.Sprintf("%s v%d", s.VM, s.Version)
		if p.Stage == deploy.StageTransfer || p.Stage == deploy.StageChecksum && p.PlanDone < p.PlanTotal {
			sources := bySource(p.Bytes)
			if p.Stage != deploy.StageTransfer && p.Total > 0 {
				sources = fmt.Sprintf("%s %d%%", stage, 100*p.Done/p.Total)
			}
			d.meter.Show(title, p.PlanDone, p.PlanTotal, sources)
			return
		}
		if !d.got {
			d.got = true
			d.meter.Show(title, p.PlanTotal, p.PlanTotal, bySource(p.Bytes))
		}
		stage = title + " " + stage
	}
	if stage != d.stage || p.Total != d.total {
		d.complete()
		d.stage, d.total = stage, p.Total
	}
	if p.Stage == deploy.StageInstall {
		return // it takes no time
	}
	d.meter.Show(stage, p.Done, p.Total, "")
	if s.State == endpoint.Finished {
		d.complete()
	}
}

// complete shows the end of a stage that is over: it is not always told of.
func (d *display) complete() {
	if d.total > 0 {
		d.meter.Show(d.stage, d.total, d.total, "")
	}
	d.stage, d.total = "", 0
}

// bySource lists bytes by the kind of their source.
func bySource(bytes map[string]int64) string {
	var parts []string
	for _, k := range deploy.Kinds() {
		if n := bytes[k]; n > 0 {
			parts = append(parts, k+" "+progress.Bytes(n))
		}
	}
	return strings.Join(parts, ", ")
}

// printLine prints a line. Names on media and words of servers get into it; they must not steer the terminal.
func printLine(w io.Writer, format string, args ...any) {
	fmt.Fprintln(w, problem.Printable(fmt.Sprintf(format, args...)))
}

func printReceipt(w io.Writer, r *endpoint.Receipt) {
	switch {
	case r.Verify != nil:
		printVerified(w, r)
		return
	case r.Kind == endpoint.Backup:
		printBackup(w, r)
		return
	case r.Nothing != "":
		printLine(w, "%s", r.Nothing)
	case r.Kind == endpoint.Repair:
		printLine(w, "VM %s, version %d of %s, is repaired", r.VM, r.Version, r.Image)
	case r.Kind == endpoint.Restore && r.Previous != 0:
		printLine(w, "VM %s is as it was at point %d; what it was before is kept for rollback", r.VM, r.Point.Point)
	case r.Kind == endpoint.Restore:
		printLine(w, "VM %s is ready, as it was at point %d", r.VM, r.Point.Point)
	case r.Previous != 0:
		printLine(w, "VM %s has version %d of %s now; version %d is kept for rollback", r.VM, r.Version, r.Image, r.Previous)
	default:
		printLine(w, "VM %s, version %d of %s, is ready", r.VM, r.Version, r.Image)
	}
	printPath(w, r)
	for _, s := range r.Sources {
		line := fmt.Sprintf("  from %-8s %10s  %5d blocks  %s", s.Kind, progress.Bytes(s.Bytes), s.Blocks, s.Name)
		if s.Bad > 0 {
			line += fmt.Sprintf("; %d bad", s.Bad)
		}
		if s.GivenUp != "" {
			line += "; given up: " + s.GivenUp
		}
		printLine(w, "%s", line)
	}
	if r.Blocks > 0 || r.Verified > 0 {
		printLine(w, "  %d blocks verified, %d healed from another source, %d kept from an interrupted run", r.Verified, r.Healed, r.Resumed)
	}
	if r.Detours > 0 {
		printLine(w, "  %s could not be had; another way was taken", count(r.Detours, "layer"))
	}
	if r.Nothing == "" {
		printLine(w, "  %s over the line in all, %v", progress.Bytes(r.Wire), (time.Duration(r.Seconds*1000) * time.Millisecond).Round(10*time.Millisecond))
	}
	for _, d := range r.Disks {
		printLine(w, "  %s disk %s: %s", d.Role, progress.Bytes(d.Size), d.Leaf)
	}
	for _, n := range r.Notes {
		printLine(w, "  note: %s", n)
	}
}

func printVerified(w io.Writer, r *endpoint.Receipt) {
	if len(r.Verify.Bad) == 0 {
		printLine(w, "VM %s, version %d of %s: %d blocks, all as published", r.VM, r.Version, r.Image, r.Verify.Blocks)
	}
	const most = 10
	for i, b := range r.Verify.Bad {
		if i == most {
			printLine(w, "  and %d more", len(r.Verify.Bad)-most)
			break
		}
		printLine(w, "  %s disk: %s", b.Role, b.Why)
	}
	for _, role := range r.Verify.Changed {
		printLine(w, "  the VM has written to its %s disk, as it may", role)
	}
}

func printPlan(w io.Writer, p endpoint.PlanReport) {
	for _, n := range p.Notes {
		printLine(w, "note: %s", n)
	}
	if len(p.Disks) == 0 {
		return
	}
	printLine(w, "version %d of %s", p.Version, p.Image)
	for _, d := range p.Disks {
		from := "from nothing"
		switch {
		case len(d.Steps) == 0:
			from = "it is installed"
		case d.StartVersion != 0:
			from = fmt.Sprintf("from version %d, which is here", d.StartVersion)
		case !d.Start.IsZero():
			from = "from the installed state " + d.Start.Short()
		}
		printLine(w, "  %s disk, %s: %s", d.Role, progress.Bytes(d.Size), from)
		for _, st := range d.Steps {
			printStep(w, st.FromVersion, st.ToVersion, st.From.IsZero(), st.Layer, st.Blocks, st.Bytes)
		}
	}
	for _, k := range deploy.Kinds() {
		if p.Blocks[k] > 0 {
			printLine(w, "  from %-8s %10s  %5d blocks", k, progress.Bytes(p.Bytes[k]), p.Blocks[k])
		}
	}
	if p.Here > 0 {
		printLine(w, "  %d blocks are here from an interrupted run", p.Here)
	}
	if p.Missing > 0 {
		printLine(w, "  %d blocks are nowhere to be had at present", p.Missing)
	}
	printLine(w, "  space: up to %s needed, %s free", progress.Bytes(p.Needed), progress.Bytes(p.Free))
	printLine(w, "  time: %s", estimate(p))
	for _, m := range p.Media {
		printLine(w, "  medium %s (%s): %s; gives %d blocks", m.Place(), m.Kind, m.Found, m.Blocks)
		for _, n := range m.Notes {
			printLine(w, "    %s", n)
		}
	}
}

// printPath shows the way that was taken, as a plan shows it.
func printPath(w io.Writer, r *endpoint.Receipt) {
	for _, d := range r.Disks {
		shown := false
		for _, st := range r.Path {
			if st.Role != d.Role {
				continue
			}
			if !shown {
				from := "from nothing"
				if !st.From.IsZero() {
					from = "from the installed state " + st.From.Short()
				}
				if st.FromVersion != 0 {
					from = fmt.Sprintf("from version %d, which was here", st.FromVersion)
				}
				printLine(w, "  %s disk, %s: %s", d.Role, progress.Bytes(d.Size), from)
				shown = true
			}
			printStep(w, st.FromVersion, st.ToVersion, st.From.IsZero(), st.Layer, st.Blocks, st.Bytes)
		}
	}
}

// printStep shows one layer of a path, with the versions that it leads from and to where they are known.
func printStep(w io.Writer, from, to image.Version, full bool, id image.LayerID, blocks int, bytes map[string]int64) {
	what := "a layer"
	switch {
	case full && to != 0:
		what = fmt.Sprintf("full image of version %d", to)
	case full:
		what = "full image"
	case from != 0 && to != 0:
		what = fmt.Sprintf("version %d to %d", from, to)
	case to != 0:
		what = fmt.Sprintf("to version %d", to)
	}
	line := fmt.Sprintf("    %s: %s", what, count(blocks, "block"))
	if s := bySource(bytes); s != "" {
		line += "; " + s
	}
	printLine(w, "%s (layer %s)", line, id.Short())
}

func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// estimate says how long a plan takes, or why nobody knows.
func estimate(p endpoint.PlanReport) string {
	if len(p.Unknown) > 0 {
		return "not known; nothing was measured yet of: " + strings.Join(p.Unknown, ", ")
	}
	d := time.Duration(p.Seconds * float64(time.Second))
	switch {
	case d < 2*time.Second:
		return "a moment"
	case d < 90*time.Second:
		return fmt.Sprintf("about %d s, by what was measured before", int(d.Round(time.Second).Seconds()))
	case d < 90*time.Minute:
		return fmt.Sprintf("about %d min, by what was measured before", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("about %.1f h, by what was measured before", d.Hours())
}

func printOperations(w io.Writer, ops []endpoint.Status) error {
	var rows [][]string
	for _, s := range ops {
		done := "-"
		if p := s.Progress; p.PlanTotal > 0 && s.Active {
			done = fmt.Sprintf("%s %d%%", stageNames[p.Stage], 100*p.PlanDone/p.PlanTotal)
		} else if p.Total > 0 && s.Active {
			done = fmt.Sprintf("%s %d%%", stageNames[p.Stage], 100*p.Done/p.Total)
		}
		what := ""
		if s.Problem != nil && s.State == endpoint.Failed {
			what = s.Problem.What
		}
		if s.Progress.Waits != "" && s.Active {
			what = "the VM waits: " + s.Progress.Waits
		}
		if s.Progress.Held != "" && s.Active {
			what = "nothing is fetched now: " + s.Progress.Held
		}
		version := "-"
		if v := cmp.Or(s.Version, s.Request.Version); v != 0 {
			version = v.String()
		}
		state := string(s.State)
		if s.Queued {
			state = "queued"
		}
		rows = append(rows, []string{string(s.Request.Kind), s.VM, version, state, done,
			bySource(s.Progress.Bytes), s.Created.Local().Format("2006-01-02 15:04"), what})
	}
	return cli.Table(w, []string{"OPERATION", "VM", "VERSION", "STATE", "PROGRESS", "BYTES", "BEGUN", "PROBLEM"}, rows)
}
