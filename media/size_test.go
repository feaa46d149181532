package media_test

import (
	"testing"

	"disksync/media"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "4.7G": 4_700_000_000, "8.5G": 8_500_000_000, "650M": 650_000_000, "650MB": 650_000_000, "700MiB": 700 << 20, "1.5KiB": 1536, "2T": 2e12,
		"cd": 700 << 20, "dvd": 4_700_372_992, "dvd-dl": 8_543_666_176, "bd": 25_025_314_816,
		"": 0, "0": 0, "-1": 0, "1iB": 0, "4,7G": 0, "G": 0, "1e9": 0, "DVD": 0, "1 G": 0, "999999999999999T": 0, "0.0000001K": 0,
	} {
		got, err := media.ParseSize(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
		if want%2048 != 0 && len(text) > 1 && text[0] > '9' {
			t.Errorf("%s is no number of sectors", text)
		}
	}
}
