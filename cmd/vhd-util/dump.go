package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"disksync/image"
	"disksync/internal/problem"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// dump prints structures in the form that the original has, which scripts read.
type dump struct {
	w   io.Writer
	hex bool
}

func (d dump) num(n uint64) string {
	if d.hex && n != 0 {
		return "0x" + strconv.FormatUint(n, 16)
	}
	return strconv.FormatUint(n, 10)
}

func (d dump) line(label, format string, args ...any) {
	fmt.Fprintf(d.w, "%-20s: %s\n", label, fmt.Sprintf(format, args...))
}

func (d dump) title(s string) { fmt.Fprintf(d.w, "%s:\n%s\n", s, strings.Repeat("-", len(s)+1)) }

func (d dump) all(s *vhdfile.Structures) {
	d.footer(s)
	if s.Footer.Type == vhd.Fixed {
		return
	}
	d.header(s)
	if s.Footer.Type == vhd.Differencing {
		d.locators(s.Locators)
	}
	if s.Batmap != nil {
		d.batmap(s.Batmap)
	}
}

func sum(s vhdfile.Sum) string {
	verdict := "Good!"
	if !s.Good() {
		verdict = "Bad!"
	}
	return fmt.Sprintf("0x%x|0x%x (%s)", s.Stored, s.Computed, verdict)
}

func when(t vhd.Timestamp) string { return t.Time().Local().Format(time.ANSIC) }

// text makes bytes from a file fit to be printed.
func text(b []byte) string { return problem.Printable(strings.TrimRight(string(b), "\x00")) }

func (d dump) footer(s *vhdfile.Structures) {
	f := s.Footer
	d.title("VHD Footer Summary")
	d.line("Cookie", "%s", problem.Printable(s.FooterCookie))
	features := ""
	if f.Features&1 != 0 {
		features += "<TEMP>"
	}
	if f.Features&2 != 0 {
		features += "<RESV>"
	}
	d.line("Features", "(0x%08x) %s", f.Features, features)
	d.line("File format version", "Major: %d, Minor: %d", f.Version>>16, f.Version&0xffff)
	d.line("Data offset", "%s", d.num(f.DataOffset))
	d.line("Timestamp", "%s", when(f.Timestamp))
	d.line("Creator Application", "'%s'", text(f.Creator.App[:]))
	d.line("Creator version", "Major: %d, Minor: %d", f.Creator.Version>>16, f.Creator.Version&0xffff)
	system := "Unknown!"
	switch string(f.Creator.OS[:]) {
	case "Wi2k":
		system = "Windows"
	case "Mac ":
		system = "Macintosh"
	}
	d.line("Creator OS", "%s", system)
	d.line("Original disk size", "%s MB (%s Bytes)", d.num(uint64(f.OriginalSize)/mega), d.num(uint64(f.OriginalSize)))
	d.line("Current disk size", "%s MB (%s Bytes)", d.num(uint64(f.Size)/mega), d.num(uint64(f.Size)))
	g := f.Geometry
	d.line("Geometry", "Cyl: %s, Hds: %s, Sctrs: %s", d.num(uint64(g.Cylinders)), d.num(uint64(g.Heads)), d.num(uint64(g.Sectors)))
	d.line("", "= %s MB (%s Bytes)", d.num(uint64(g.Size())/mega), d.num(uint64(g.Size())))
	d.line("Disk type", "%s", typeName(f.Type))
	d.line("Checksum", "%s", sum(s.FooterSum))
	d.line("UUID", "%s", f.UUID)
	saved := "No"
	if f.SavedState != 0 {
		saved = "Yes"
	}
	d.line("Saved state", "%s", saved)
	d.line("Hidden", "%d", f.Hidden)
	fmt.Fprintln(d.w)
}

func typeName(t vhd.Type) string {
	switch t {
	case 0:
		return "None"
	case vhd.Fixed:
		return "Fixed hard disk"
	case vhd.Dynamic:
		return "Dynamic hard disk"
	case vhd.Differencing:
		return "Differencing hard disk"
	case 1, 5, 6:
		return "Reserved (deprecated)"
	}
	return "Unknown type!"
}

func (d dump) header(s *vhdfile.Structures) {
	h := s.Header
	d.title("VHD Header Summary")
	d.line("Cookie", "%s", problem.Printable(s.HeaderCookie))
	d.line("Data offset (unusd)", "%s", d.num(s.HeaderOffset))
	d.line("Table offset", "%s", d.num(h.TableOffset))
	d.line("Header version", "0x%08x", h.Version)
	d.line("Max BAT size", "%s", d.num(uint64(h.MaxTableEntries)))
	d.line("Block size", "%s (%s MB)", d.num(uint64(h.BlockSize)), d.num(uint64(h.BlockSize)/mega))
	d.line("Parent name", "%s", problem.Printable(h.ParentName))
	d.line("Parent UUID", "%s", h.ParentUUID)
	d.line("Parent timestamp", "%s", when(h.ParentTimestamp))
	d.line("Checksum", "%s", sum(s.HeaderSum))
	fmt.Fprintln(d.w)
}

func (d dump) locators(all []vhdfile.LocatorText) {
	d.title("VHD Parent Locators")
	for _, l := range all {
		d.line("locator:", "%d", l.Index)
		d.line("       code", "%s", platformName(l.Platform))
		d.line("       data_space", "%s", d.num(uint64(l.Space)))
		d.line("       data_length", "%s", d.num(uint64(l.Length)))
		d.line("       data_offset", "%s", d.num(l.Offset))
		if l.Text == "" {
			fmt.Fprintln(d.w, "failed to read parent name")
		} else {
			d.line("       decoded name", "%s", problem.Printable(l.Text))
		}
		fmt.Fprintln(d.w)
	}
}

func platformName(p vhd.Platform) string {
	switch s := string(p[:]); s {
	case "W2ru", "W2ku", "Wi2r", "Wi2k", "MacX":
		return "PLAT_CODE_" + strings.ToUpper(s)
	case "Mac ":
		return "PLAT_CODE_MAC"
	}
	return "UNKOWN" // as scripts know it
}

func (d dump) batmap(m *vhdfile.Batmap) {
	d.title("VHD Batmap Summary")
	d.line("Batmap offset", "%s", d.num(uint64(m.Offset)))
	d.line("Batmap size (secs)", "%s", d.num(uint64(m.Sectors)))
	d.line("Batmap version", "0x%08x", m.Version)
	if m.Keyed {
		d.line("Batmap keyhash nonce", "%x", m.Nonce)
		d.line("Batmap keyhash hash", "%x", m.Hash)
	}
	d.line("Checksum", "%s", sum(m.Sum))
	fmt.Fprintln(d.w)
}

// sectors is how many sectors that many bytes are.
func sectors(n int64) int64 { return n / image.SectorSize }
