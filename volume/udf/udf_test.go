package udf_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"disksync/internal/testkit"
	"disksync/volume"
	"disksync/volume/udf"
	"disksync/volume/volumetest"
)

// run runs a program and returns what it prints.
func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testkit.Tool(t, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func open(t testing.TB, name string) volume.Volume {
	t.Helper()
	return volumetest.Open(t, name, udf.Open)
}

// sparse makes an empty image file of so many MiB.
func sparse(t testing.TB, mib int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disc.img")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, mib<<20); err != nil {
		t.Fatal(err)
	}
	return name
}

// udfclient runs commands of udfclient in the root folder of a volume, which it calls by all the volume's names.
func udfclient(t testing.TB, img string, blockSize int, root string, commands ...string) {
	t.Helper()
	b := strconv.Itoa(blockSize)
	if root == "" {
		_, list, _ := strings.Cut(run(t, "ls\nquit\n", "udfclient", "-b", b, img), "Directory listing of /\n")
		line, _, _ := strings.Cut(list, "\n")
		fields := strings.Fields(line)
		if len(fields) < 5 {
			t.Fatalf("udfclient lists %q", line)
		}
		root = strings.Join(fields[4:], " ")
	}
	script := fmt.Sprintf("cd %q\n%s\nsync\nquit\n", root, strings.Join(commands, "\n"))
	out := run(t, script, "udfclient", "-W", "-b", b, img)
	if strings.Contains(out, "No space") {
		t.Fatalf("udfclient: %s", out)
	}
}

// TestTools: what other programs write is read as the folder that they were given, with sectors of 512 to 4096 bytes, all revisions that
// they know, and sparable partitions.
func TestTools(t *testing.T) {
	t.Parallel()
	// udfclient stops after some twenty files, whatever the size, and garbles names beyond ASCII; see TestHybrid for these.
	src, gaps := t.TempDir(), t.TempDir()
	full := volumetest.Source(t, volumetest.NoMany)
	if err := os.CopyFS(filepath.Join(src, "sizes"), os.DirFS(filepath.Join(full, "sizes"))); err != nil {
		t.Fatal(err)
	}
	put := []string{fmt.Sprintf("lcd %q", src), "put sizes"}
	putGaps := []string{fmt.Sprintf("lcd %q", gaps)}
	rnd := rand.New(rand.NewPCG(1, 1))
	for i, size := range []int{20 << 20, 20 << 20, 20 << 20, 45 << 20} {
		b := make([]byte, size)
		for k := range b {
			b[k] = byte(rnd.Uint32())
		}
		name := fmt.Sprintf("file %d", i)
		if err := os.WriteFile(filepath.Join(gaps, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		if i == 3 { // into the gaps
			putGaps = append(putGaps, `rm "file 0"`, "sync")
		}
		putGaps = append(putGaps, fmt.Sprintf("put %q", name))
	}
	if err := os.Remove(filepath.Join(gaps, "file 0")); err != nil {
		t.Fatal(err)
	}
	const mib = 100
	for _, c := range []struct{ media, rev, size string }{
		{"hd", "2.01", "512"},
		{"hd", "1.02", "2048"},
		{"hd", "2.01", "2048"},
		{"hd", "1.50", "4096"},
		{"dvdrw", "2.01", "2048"},
		{"cdrw", "1.50", "2048"},
		{"newfs_udf", "2.01", "2048"},
	} {
		t.Run(c.media+" "+c.rev+" "+c.size, func(t *testing.T) {
			t.Parallel()
			img := sparse(t, mib)
			size, err := strconv.Atoi(c.size)
			if err != nil {
				t.Fatal(err)
			}
			root := ""
			if c.media == "newfs_udf" {
				run(t, "", "newfs_udf", "-L", "Disc", "-b", c.size, "-s", strconv.Itoa(mib<<20/size), img)
			} else {
				run(t, "", "mkudffs", "--utf8", "--media-type="+c.media, "--blocksize="+c.size, "--udfrev="+c.rev, "--label=Disc", "--uuid=0123456789abcdef", img)
				root = "0123456789abcdefLinuxUDF:Disc:Disc:LinuxUDF"
			}
			put, src := put, src
			if c.rev == "1.02" {
				put, src = putGaps, gaps
			}
			udfclient(t, img, size, root, put...)
			v := open(t, img)
			volumetest.Compare(t, v, src)
			sameAsBlkid(t, img, v.Info())
		})
	}
}

// TestWriteOnce: mkudffs makes discs that are written once only empty; see TestBuilt for those with files. They are found to be empty.
func TestWriteOnce(t *testing.T) {
	t.Parallel()
	for media, rev := range map[string]string{"cdr": "1.50", "dvdr": "2.01", "bdr": "2.60"} {
		img := sparse(t, 40)
		run(t, "", "mkudffs", "--utf8", "--media-type="+media, "--udfrev="+rev, "--label=größer", img)
		// A drive says that a disc ends with the last block that was written, where the table of virtual blocks is.
		b := load(t, img)
		end := len(bytes.TrimRight(b, "\x00"))
		v, err := udf.Open(inMemory(b[:(end+2047)&^2047]))
		if err != nil {
			t.Fatal(err)
		}
		list, err := v.ReadDir(".")
		if len(list) > 0 && list[0].Name != "lost+found" || err != nil || v.Info().Label != "größer" {
			t.Errorf("%s: %v, %v, %+v", media, list, err, v.Info())
		}
	}
}

// sameAsBlkid compares what a volume says of itself.
func sameAsBlkid(t *testing.T, img string, got volume.Info) {
	t.Helper()
	said := map[string]string{}
	for line := range strings.Lines(run(t, "", "blkid", "-p", "-o", "export", img)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[key] = value
	}
	want := volume.Info{Type: said["TYPE"], Label: said["LABEL"], ID: said["UUID"]}
	want.BlockSize, _ = strconv.Atoi(said["BLOCK_SIZE"])
	if got != want {
		t.Errorf("%+v, blkid says %+v", got, want)
	}
}
