// Package backup makes points of a line of backups: the disks of a VM as they were frozen at one instant become layers from what the
// newest point holds, are sent to the Synchronizer, and are sealed as a point. A layer is made from the blocks that were written since
// alone. Equal disks give equal layers, so what was sent before an interruption need not be sent again.
package backup
