package deploy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"disksync/deploy"
)

// TestHeldUp: a job that gets blocks from a stick is not held up by an interrupted line; when the stick has no more it is.
func TestHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tally := deploy.NewTally()
		check := func(when string, want deploy.LineState) {
			t.Helper()
			if got := tally.Progress().Line; got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		pass := func(d time.Duration) { <-time.After(d) }
		tally.Got(deploy.Network)
		tally.SetLine(deploy.LineStalled)
		check("interrupted", deploy.LineStalled)
		tally.Got(deploy.USB)
		check("a stick gives", deploy.LineRunning)
		pass(9 * time.Second)
		tally.SetLine(deploy.LineStalled) // tried again
		check("a slow stick", deploy.LineRunning)
		pass(2 * time.Second)
		check("no more from the stick", deploy.LineStalled)
		tally.SetLine(deploy.LineRunning)
		check("the line is back", deploy.LineRunning)
	})
}
