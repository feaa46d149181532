package vhdfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"disksync/vhd"
)

// ErrNotEmpty is returned when a file that is to be written already holds something. Nothing was changed.
var ErrNotEmpty = errors.New("the file is not empty; nothing was changed")

// Create writes an empty disk to f, an empty regular file or a block device, whose content is lost. See [vhd.Create]. To give
// the file its name when it is whole is left to the caller, here and in the functions below.
func Create(f *os.File, o vhd.CreateOptions) error {
	device, err := target(f)
	if err != nil {
		return err
	}
	o.DeviceSize = device
	return vhd.Create(f, o)
}

// Convert writes a VHD with the content of src to f, an empty regular file or a block device, whose content is lost, and syncs
// it. Zeros become holes of a file. See [vhd.Convert].
func Convert(ctx context.Context, f *os.File, src vhd.Source, o vhd.CreateOptions, c vhd.CopyOptions) error {
	device, err := target(f)
	if err != nil {
		return err
	}
	o.DeviceSize = device
	return vhd.Convert(ctx, f, src, o, c)
}

// ConvertRaw writes the content of src to f as a raw disk, and syncs it. f is an empty regular file, which gets holes where
// there are zeros, or a block device that is large enough, where zeros are written; what lies behind the disk stays.
func ConvertRaw(ctx context.Context, f *os.File, src vhd.Source, c vhd.CopyOptions) error {
	device, err := target(f)
	switch {
	case err != nil:
	case device == 0:
		err = vhd.ConvertRaw(ctx, f, src, c)
	case device < src.Size():
		err = fmt.Errorf("%s: %w: %d bytes for a disk of %d", f.Name(), vhd.ErrDeviceFull, device, src.Size())
	default:
		err = vhd.StreamRaw(ctx, io.NewOffsetWriter(f, 0), src, c)
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

// target returns the length of a block device, 0 for an empty regular file.
func target(f *os.File) (deviceSize int64, err error) {
	size, err := Size(f)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	device, err := isDevice(f)
	if err != nil || device {
		return size, err
	}
	if size != 0 {
		return 0, fmt.Errorf("%s: %w", f.Name(), ErrNotEmpty)
	}
	return 0, nil
}

func isDevice(f *os.File) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	return !st.Mode().IsRegular(), nil
}
