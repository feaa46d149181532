// Package mediachild reads the file systems of devices and image files in a process of its own, which may do next to nothing.
//
// Who makes a stick chooses every byte that the readers of file systems look at. So they run in a child: it gets the device, open for
// reading, and a socket; it gives up its rights, has the kernel refuse all but the few system calls that reading takes, and may use little memory
// (see [Serve]). What it can still do is give wrong names and wrong bytes, and those are compared with digests anyway.
//
// The parent ([Open]) sees volumes as everybody else does. A child that crashes, hangs or talks nonsense is damage of the medium: it is
// ended, what was asked for fails, and one more is started for the rest.
package mediachild
