//go:build race

package deploy_test

// raceEnabled says that everything that touches bytes takes many times as long.
const raceEnabled = true
