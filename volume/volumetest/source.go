package volumetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Many is how many files the largest folder of a source has.
const Many = 2000

// Source makes a folder with what is awkward for file systems: sizes around those of blocks, names of many kinds, many names in a
// folder, folders within folders, a file under two names, and links, which have to be left out. Options leave out what a program that
// makes images cannot do.
func Source(t testing.TB, options ...Option) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(7, 8))
	put := func(name string, size int) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		name = filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	without := func(o Option) bool {
		for _, x := range options {
			if x == o {
				return true
			}
		}
		return false
	}
	for _, size := range []int{0, 1, 100, 511, 512, 2047, 2048, 2049, 4096, 70_000, 3 << 20} {
		put(fmt.Sprintf("sizes/%d.bin", size), size)
	}
	for i, name := range []string{"größe.vhd", "日本語.vhd", "two words.vhd", "no ending", ".hidden", strings.Repeat("long", 15)} {
		put("names/"+name, 300+i)
	}
	if !without(NoSemicolon) {
		put("names/Semi;colon", 400)
	}
	if !without(NoPlanes) {
		put("names/🎉 party.vhd", 5000)
	}
	if !without(NoMany) {
		for i := range Many {
			put(fmt.Sprintf("many/file number %d.txt", i), i%50)
		}
	}
	put("a/b/c/d/e/f.bin", 4000)
	if !without(NoDeep) {
		put("a/b/c/d/e/f/g/h/i/j/k/deep.bin", 5000)
	}
	if err := os.Mkdir(filepath.Join(dir, "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !without(NoLinks) {
		if err := os.Link(filepath.Join(dir, "sizes", "70000.bin"), filepath.Join(dir, "hard link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("sizes/1.bin", filepath.Join(dir, "symbolic link")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Option is what a source shall not have.
type Option int

// What a source may be without.
const (
	NoLinks     Option = iota + 1 // hard and symbolic links
	NoPlanes                      // names with characters beyond the first 65,536
	NoMany                        // the folder with many names
	NoDeep                        // more than eight folders within one another
	NoSemicolon                   // a name with a semicolon
)
