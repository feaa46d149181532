// Package release holds the release number of the programs.
package release

// Version is the release of all programs of the project.
const Version = "0.1.0"
