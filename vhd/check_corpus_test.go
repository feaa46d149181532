package vhd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"disksync/vhd"
)

func TestXX(t *testing.T) {
	for _, dir := range []string{"testdata/corpus", "../../work/shared/vhd-corpus"} {
	_ = dir
	files := readManifest(t, filepath.Join("/work/shared/vhd-corpus", "MANIFEST.tsv"))
	un := unpackCorpus(t, "/work/shared/vhd-corpus", files)
	for _, f := range files {
		b, _ := os.Open(filepath.Join(un, trimPack(f.name)))
		st, _ := b.Stat()
		rep, err := vhd.Check(b, st.Size(), vhd.CheckOptions{Bitmaps: true, Data: true})
		fmt.Println(f.name, err, rep.Blocks, rep.Allocated)
		for _, x := range rep.Findings { fmt.Println("     ", x.Fault.Severity(), x) }
	}
	break
	}
}
