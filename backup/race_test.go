//go:build race

package backup_test

// raceEnabled says that everything that touches bytes takes many times as long.
const raceEnabled = true
