package dbusapi_test

import (
	"os"
	"testing"

	"disksync/internal/testkit"
)

// shipped is the program that the bus starts, and that reads disks.
var shipped = testkit.NewShipped("cmd/disksyncmgr")

func TestMain(m *testing.M) {
	code := m.Run()
	shipped.Remove()
	os.Exit(code)
}
