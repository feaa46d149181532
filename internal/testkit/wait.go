package testkit

import (
	"testing"
	"time"
)

// Patience is how long something outside of a test may take to happen.
const Patience = 60 * time.Second

// Until waits for something that happens in another process, which no channel tells of.
func Until(t testing.TB, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		}
	}
}
