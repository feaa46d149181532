package demodisk_test

import (
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"disksync/internal/demodisk"
	"disksync/internal/testkit"
)

const partitionStart = 1 << 20

// judge returns the listing of an image, once dosfstools have found nothing wrong with it and mtools have read the same
// files from it.
func judge(t *testing.T, image string) []demodisk.File {
	t.Helper()
	files, err := demodisk.Check(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	fsck, mcopy := testkit.Tool(t, "fsck.vfat"), testkit.Tool(t, "mcopy")
	partition := filepath.Join(t.TempDir(), "partition")
	extract(t, image, partition)

	// Anything beyond the banner and the summary is a complaint.
	out, err := exec.CommandContext(t.Context(), fsck, "-n", partition).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 2 || !strings.Contains(lines[1], " clusters") {
		t.Errorf("%s: %v\n%s", fsck, err, out)
	}

	copied := t.TempDir()
	out, err = exec.CommandContext(t.Context(), mcopy, "-s", "-n", "-Q", "-i", partition, "::/*", copied).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", mcopy, err, out)
	}
	if diff := gocmp.Diff(hashTree(t, copied), files); diff != "" {
		t.Errorf("files (-mtools +Check):\n%s", diff)
	}
	return files
}

// extract copies the partition of an image into a file.
func extract(t *testing.T, image, to string) {
	t.Helper()
	in, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(in, partitionStart, info.Size()-partitionStart)); err != nil {
		t.Fatal(err)
	}
}

// hashTree lists the files of a directory as Check lists those of an image.
func hashTree(t *testing.T, root string) []demodisk.File {
	t.Helper()
	var files []demodisk.File
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(filepath.Join(root, path))
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		if err != nil {
			return err
		}
		files = append(files, demodisk.File{Path: path, Size: n, SHA256: [sha256.Size]byte(sum.Sum(nil))})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(files, byPath)
	return files
}
