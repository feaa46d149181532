package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"disksync/image"
	"disksync/internal/testkit"
)

// TestLarge publishes a large disk that is a small one, and leaves the rest of the page as it is.
func TestLarge(t *testing.T) {
	testkit.FUSE(t)
	o := tiny(t, largeCase)
	o.large = 96 << 20
	if err := os.WriteFile(o.page, []byte("# Page\n\n## Exact commands\n\nkept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tables, err := measureAll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Page\n\n## " + largeTitle + "\n", "8 of its 48 blocks", "\n| **disksync, 24.0 MiB, version 1** | ", "\n| **disksync, 24.0 MiB, version 2** | ",
		"\n| **disksync, 96.0 MiB, version 1** | ", "\n| **disksync, 96.0 MiB, version 2** | ", "times what it needed", "\n\n## Exact commands\n\nkept\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the page has no %q:\n%s", want, b)
		}
	}
	for _, r := range tables[len(tables)-1].rows {
		x := r.runs[0]
		if x.prepare.wall <= 0 || x.prepare.peak <= 0 || x.prepare.serverPeak <= 0 {
			t.Errorf("%s was not measured: %+v", r.name, x)
		}
		// A block packs to some 16 KiB, a changed one to as much as is new of it.
		if x.stored < 100<<10 || x.stored > 4<<20 {
			t.Errorf("%s: %d bytes are stored", r.name, x.stored)
		}
	}
	empty(t, o.dir)
}

// TestLargeInterrupted: an interrupt in between leaves nothing behind, nor is anything mounted.
func TestLargeInterrupted(t *testing.T) {
	testkit.FUSE(t)
	o := tiny(t, largeCase)
	o.large = 96 << 20
	ctx, cancel := context.WithCancel(t.Context())
	o.log = cancelAt{cancel, "publishing version 2"}
	if _, err := measureAll(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	empty(t, o.dir)
	b, err := os.ReadFile("/proc/mounts")
	if err != nil || strings.Contains(string(b), o.dir) {
		t.Errorf("it is mounted still, or %v:\n%s", err, b)
	}
}

// TestLargeOnlyWhenAsked: nobody waits for it who did not ask.
func TestLargeOnlyWhenAsked(t *testing.T) {
	for _, c := range []struct {
		o    options
		want bool
	}{
		{options{}, false}, {options{all: true}, true}, {options{cases: []string{largeCase}}, true}, {options{cases: []string{"byte"}, all: true}, false},
	} {
		for _, s := range sections() {
			if s.name == largeCase && c.o.wants(s) != c.want {
				t.Errorf("with cases %q, all %v: %v", c.o.cases, c.o.all, !c.want)
			}
		}
	}
}

// TestVast: a computed disk is the same however it is read, has no cluster twice, and changes where it should.
func TestVast(t *testing.T) {
	const total = 32 << 20
	one, two := vast{total, 1}, vast{total, 2}
	a, b := make([]byte, total), make([]byte, total)
	for _, v := range []struct {
		vast
		all []byte
	}{{one, a}, {two, b}} {
		if n, err := v.ReadAt(v.all, 0); n != total || err != nil {
			t.Fatal(n, err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 200 {
			p := make([]byte, r.IntN(3*cluster))
			off := r.Int64N(total)
			n, err := v.ReadAt(p, off)
			want := v.all[off:min(total, off+int64(len(p)))]
			if n != len(want) || (err == io.EOF) != (n < len(p)) || !bytes.Equal(p[:n], want) {
				t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
			}
		}
	}
	seen := map[string]int{}
	for at := 0; at < total; at += cluster {
		c := string(a[at:][:cluster])
		if other, ok := seen[c]; ok {
			t.Fatalf("the clusters at %d and %d are the same", at, other)
		}
		seen[c] = at
	}
	changed, moved := 0, 0
	for i := range one.blocks() {
		at := i * image.BlockSize
		if same := bytes.Equal(a[at:][:image.BlockSize], b[at:][:image.BlockSize]); same == one.changed(i) {
			t.Errorf("block %d: the same: %v", i, same)
		}
		if one.changed(i) {
			changed++
			if old, ok := seen[string(b[at+2*runClusters*cluster:][:cluster])]; ok && old != at+2*runClusters*cluster {
				moved++
			}
		}
	}
	if changed != leastChanged || moved != changed {
		t.Errorf("%d blocks are changed, %d have what was elsewhere", changed, moved)
	}
	s1, s2, err := one.states(t.Context())
	if err != nil || s1.Block(0) != image.SumBlock(a[:image.BlockSize]) || s2.Block(2) != image.SumBlock(b[2*image.BlockSize:][:image.BlockSize]) {
		t.Errorf("the digests are wrong, or %v", err)
	}
	if err := two.compare(t.Context(), bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
	if err := two.compare(t.Context(), bytes.NewReader(a)); err == nil {
		t.Error("another content was not found")
	}
}

func BenchmarkVast(b *testing.B) {
	v := vast{largeDefault, 1}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for i := range b.N {
		if _, err := v.ReadAt(p, int64(i)<<20%v.size); err != nil {
			b.Fatal(err)
		}
	}
}
