package api

import "time"

// Limits that both sides keep.
const (
	// MaxJSON bounds a JSON request or answer, in bytes, but for manifests and states.
	MaxJSON = 4 << 20
	// MaxName bounds names of users, groups and devices, in bytes.
	MaxName = 128
	// MaxPassword bounds a password, in bytes: argon2id reads all of it.
	MaxPassword = 1024
	// MaxNote bounds the publisher's words about a version, in bytes.
	MaxNote = 4096
	// MaxUploadChunk bounds the body of one upload request, in bytes.
	MaxUploadChunk = 64 << 20
	// MaxRanges bounds the ranges of one request for a layer: their header has to get through proxies, of which many take 8 KiB.
	MaxRanges = 256
	// MaxList bounds a list of backups or images, in bytes.
	MaxList = 64 << 20
	// MaxListed bounds the points, and the lines, in a list of backups of several VMs.
	MaxListed = 20000
	// PageLines bounds the lines in a page of such a list.
	PageLines = 1000
	// MaxStarts bounds the states that a NewBackup asks about.
	MaxStarts = 256
	// MaxLines and MaxPoints bound the lines of backups of a user and the points of a line that are there at the same time.
	MaxLines  = 256
	MaxPoints = 10000
	// TokenLife is how long a login lasts.
	TokenLife = 90 * 24 * time.Hour
)
