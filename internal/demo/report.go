package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"disksync/deploy"
	"disksync/endpoint"
	"disksync/image"
	"disksync/internal/progress"
)

// A report is what the demonstration found.
type report struct {
	deployments []deployment
	wrong       []string // what is not as it should be
}

// A deployment is one row of the table at the end.
type deployment struct {
	laptop  string
	version image.Version
	what    string
	bytes   map[string]int64 // by kind of source
	seconds float64

	verified, healed, kept int

	unfinished bool // it was killed, so there was nothing to compare
	identical  bool
}

// add notes a deployment.
func (r *report) add(d deployment) { r.deployments = append(r.deployments, d) }

// deployed makes a deployment of a receipt.
func (l *laptop) deployed(what string, rc endpoint.Receipt, identical bool) deployment {
	return deployment{
		laptop: l.name, version: rc.Version, what: what, bytes: rc.Bytes, seconds: rc.Seconds,
		verified: rc.Verified, healed: rc.Healed, kept: rc.Resumed, identical: identical,
	}
}

// print prints the tables.
func (r *report) print(c *console, disks []*version) {
	c.print("\n" + c.bold("What was published"))
	rows := [][]string{{"", "as", "disk", "blocks", "stored in"}}
	for i, v := range disks {
		if v.stored.Bytes == 0 {
			continue // it did not come to that
		}
		rows = append(rows, []string{
			fmt.Sprintf("version %d", i+1), v.kind(), progress.Bytes(v.stored.Size), strconv.Itoa(v.stored.Blocks), progress.Bytes(v.stored.Bytes),
		})
	}
	c.table(rows, 2)

	c.print("\n" + c.bold("What was deployed"))
	rows = [][]string{{"laptop", "", "stick", "network", "local", "time", "verified", "healed", "kept", "identical"}}
	for _, d := range r.deployments {
		rows = append(rows, d.row())
	}
	c.table(rows, 2)
	c.print("")
	c.say("stick, network, local: bytes that came from there; verified: blocks read back and compared with " +
		"their digests; healed: blocks that were damaged on the stick and came from the network; kept: blocks that an " +
		"interrupted run had brought; identical: the disk, byte by byte, with the one that was published.")
}

func (d deployment) row() []string {
	size := func(kind string) string {
		if d.bytes[kind] == 0 {
			return "-"
		}
		return progress.Bytes(d.bytes[kind])
	}
	identical := "NO"
	switch {
	case d.unfinished:
		identical = "-"
	case d.identical:
		identical = "yes"
	}
	return []string{
		strings.TrimPrefix(d.laptop, laptopName), fmt.Sprintf("v%d %s", d.version, d.what), size(deploy.USB), size(deploy.Network), size(deploy.Local),
		fmt.Sprintf("%.1f s", d.seconds), strconv.Itoa(d.verified), strconv.Itoa(d.healed), strconv.Itoa(d.kept), identical,
	}
}

// table prints rows; so many columns are aligned to the left, the others to the right.
func (c *console) table(rows [][]string, left int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			if i < left {
				fmt.Fprintf(&line, "%-*s", widths[i], cell)
			} else {
				fmt.Fprintf(&line, "%*s", widths[i], cell)
			}
		}
		c.print("   " + strings.TrimRight(line.String(), " "))
	}
}
