package testkit

import (
	"os"
	"strconv"
	"testing"
)

// KillRounds is how often a test kills a program: as often as DISKSYNC_KILL_ROUNDS says, or else a few times.
func KillRounds(t testing.TB, few int) int {
	t.Helper()
	s := os.Getenv("DISKSYNC_KILL_ROUNDS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("DISKSYNC_KILL_ROUNDS=%s: want a number from 1 on", s)
	}
	return n
}
