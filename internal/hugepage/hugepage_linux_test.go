package hugepage_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"disksync/internal/hugepage"
)

// TestFor: the memory inside is marked as the system says it, and its content stays.
func TestFor(t *testing.T) {
	if text, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil || strings.Contains(string(text), "[never]") {
		t.Skip("this kernel has no transparent huge pages, and nothing to tell of them")
	}
	type table [16 << 20]byte
	p := new(table)
	p[5<<20] = 7
	hugepage.For(p)
	b := make([]byte, 16<<20)
	hugepage.ForBytes(b)
	for name, at := range map[string]unsafe.Pointer{"a table": unsafe.Pointer(&p[8<<20]), "bytes": unsafe.Pointer(&b[8<<20])} {
		if flags := flagsOf(t, uintptr(at)); !strings.Contains(flags+" ", " hg ") {
			t.Errorf("%s: flags are%s", name, flags)
		}
	}
	if p[5<<20] != 7 {
		t.Error("the content is another")
	}
	hugepage.For(new(int))
	hugepage.ForBytes(nil)
}

// flagsOf returns the flags of the mapping that an address is in, as proc(5) has them under VmFlags.
func flagsOf(t *testing.T, at uintptr) string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatal("the mapping is not there")
	return ""
}
