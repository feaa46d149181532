//go:build !amd64 && !arm64

package mediachild

const auditArch = 0
