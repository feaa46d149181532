package table_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"disksync/internal/testkit"
	"disksync/volume/table"
)

const diskSize = 64 << 20

// partitioned is a disk with a table that sfdisk wrote, and what sfdisk says is on it.
func partitioned(t *testing.T, script string) ([]byte, []table.Partition) {
	t.Helper()
	sfdisk := testkit.Tool(t, "sfdisk")
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, diskSize)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sfdisk, "-q", file)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(sfdisk, "-J", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Table struct {
			Partitions []struct {
				Node, Type  string
				Start, Size int64
			} `json:"partitions"`
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	var want []table.Partition
	for _, p := range doc.Table.Partitions {
		if p.Type == "5" || p.Type == "f" {
			continue
		}
		n, err := strconv.Atoi(regexp.MustCompile(`\d+$`).FindString(p.Node))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, table.Partition{Number: n, Off: p.Start * 512, Size: p.Size * 512})
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b, want
}

const (
	mbrScript = "label: dos\nsize=8M,type=83\nsize=8M,type=7,bootable\nsize=40M,type=f\nsize=4M,type=83\nsize=4M,type=b\nsize=4M,type=7\n"
	gptScript = "label: gpt\nsize=8M\nsize=8M,type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\nsize=4M,name=x\n"
)

// TestPartitions: partitions are where other programs have put them, also when one copy of a GPT is damaged.
func TestPartitions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		damage       func(b []byte)
		least        int
	}{
		{"MBR", mbrScript, nil, 4},
		{"GPT", gptScript, nil, 3},
		{"GPT without its header", gptScript, func(b []byte) { clear(b[512:1024]) }, 3},
		{"GPT with damaged entries", gptScript, func(b []byte) { b[1024+40]++ }, 3},
		{"GPT without its copy", gptScript, func(b []byte) { clear(b[len(b)-512:]) }, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, want := partitioned(t, c.script)
			if c.damage != nil {
				c.damage(b)
			}
			got, err := table.Partitions(bytes.NewReader(b), int64(len(b)))
			if diff := cmp.Diff(want, got); diff != "" || err != nil || len(got) < c.least {
				t.Errorf("%d partitions: %v %s", len(got), err, diff)
			}
		})
	}
}

// TestOddTables: what makes no sense is left out, and what lies behind the end is cut off.
func TestOddTables(t *testing.T) {
	t.Parallel()
	mbr, parts := partitioned(t, mbrScript)
	short := mbr[:parts[1].Off+512]
	got, err := table.Partitions(bytes.NewReader(short), int64(len(short)))
	if err != nil || len(got) != 2 || got[1].Size != 512 {
		t.Errorf("a disk that was cut off: %+v, %v", got, err)
	}
	ring := bytes.Clone(mbr)
	copy(ring[parts[3].Off-1<<20+446+16:], []byte{0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0})
	for name, b := range map[string][]byte{"nothing": {}, "a sector": make([]byte, 512), "zeros": make([]byte, 4096), "a chain that goes nowhere": ring} {
		got, err := table.Partitions(bytes.NewReader(b), int64(len(b)))
		if err != nil || len(got) > 4 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := table.Partitions(bytes.NewReader(mbr[:100]), int64(len(mbr))); !errors.Is(err, io.EOF) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

// FuzzPartitions: no table makes reading panic or hang, or gives a partition outside of the disk.
func FuzzPartitions(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []byte{0x83, 5, 0xee} {
		b := make([]byte, 16<<10)
		for i := range b {
			b[i] = byte(rnd.UintN(3))
		}
		copy(b[512:], "EFI PART")
		for at := 0; at < len(b); at += 512 {
			b[at+450], b[at+510], b[at+511] = kind, 0x55, 0xaa
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		got, err := table.Partitions(bytes.NewReader(b), size)
		if err != nil {
			t.Error(err)
		}
		for _, p := range got {
			if p.Off <= 0 || p.Size <= 0 || p.Off > size-p.Size || p.Number < 1 {
				t.Errorf("%+v of %d bytes", p, size)
			}
		}
	})
}
