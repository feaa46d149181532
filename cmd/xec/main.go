// Command xec reads and sets D-Bus properties and calls D-Bus methods; see
// "xec --help" and package xec.
package main

import (
	"os"

	"disksync/xec"
)

func main() {
	os.Exit(xec.Main(os.Args[1:], os.Stdout, os.Stderr))
}
