package image_test

import (
	"slices"
	"strings"
	"testing"

	"disksync/image"
)

// TestReadBootTrace: lists of blocks by role, and nothing else.
func TestReadBootTrace(t *testing.T) {
	got, err := image.ReadBootTrace(strings.NewReader(`{"system": [5, 0, 9], "user": []}`))
	if err != nil || !slices.Equal(got[image.System], []int{5, 0, 9}) || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	many := "[0" + strings.Repeat(",1", image.MaxBoot) + "]"
	for _, bad := range []string{
		``, `[]`, `{"system": "5"}`, `{"system": [-1]}`, `{"system": [5, 5]}`, `{"attic": [1]}`, `{"system": [99999999999]}`,
		`{"system": ` + many + `}`, `{"system": [` + strings.Repeat(" ", 1<<20) + `]}`,
	} {
		if got, err := image.ReadBootTrace(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q gives %v", bad, got)
		}
	}
}

// TestCheckBoot: a boot set is of the disk, each block once, and small.
func TestCheckBoot(t *testing.T) {
	if err := image.CheckBoot([]int{1, 0}, image.BlockSize+512); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]int{{2}, {-1}, {0, 0}, make([]int, image.MaxBoot+1)} {
		if err := image.CheckBoot(bad, image.BlockSize+512); err == nil {
			t.Errorf("%d blocks: accepted", len(bad))
		}
	}
}
