package hotplug

// WatchKernel watches the kernel until it is closed.
func WatchKernel(proc string, tell func()) (end func(), err error) {
	k, err := watchKernel(proc, tell)
	if err != nil {
		return nil, err
	}
	return k.close, nil
}
