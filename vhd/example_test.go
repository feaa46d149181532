package vhd_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"disksync/image"
	"disksync/vhd"
	"disksync/vhd/vhdfile"
)

// A disk is made and written, a snapshot is taken and written in its turn, and then the snapshot is merged into the disk.
func Example() {
	dir, err := os.MkdirTemp("", "vhd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	base, child := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "snapshot.vhd")

	// An empty dynamic disk of 1 GiB takes a few kilobytes.
	f, err := os.Create(base)
	if err != nil {
		log.Fatal(err)
	}
	// A program of yours takes the uuid's 16 bytes from crypto/rand.
	if err := vhdfile.Create(f, vhd.CreateOptions{Size: 1 << 30, UUID: image.RandomUUID([16]byte{1})}); err != nil {
		log.Fatal(err)
	}
	f.Close()
	writeText(base, "written to the base", 0)

	// What is written from now on goes to the child.
	parent, err := vhdfile.OpenChain(base, vhdfile.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if f, err = os.Create(child); err != nil {
		log.Fatal(err)
	}
	o := vhd.CreateOptions{UUID: image.RandomUUID([16]byte{2})}
	if err := vhd.Snapshot(f, parent.Members()[0], "base.vhd", o); err != nil {
		log.Fatal(err)
	}
	f.Close()
	parent.Close()
	writeText(child, "written to the child", 5<<20)

	// Merge the child into the base. Then the child can be removed.
	d, err := vhdfile.OpenDisk(base, vhdfile.Options{})
	if err != nil {
		log.Fatal(err)
	}
	chain, err := vhdfile.OpenChain(child, vhdfile.Options{})
	if err != nil {
		log.Fatal(err)
	}
	err = vhd.Coalesce(context.Background(), d.Disk, chain.Members()[:1], vhd.CoalesceOptions{Children: vhd.NoOtherChildren})
	if err != nil {
		log.Fatal(err)
	}
	chain.Close()
	b := make([]byte, 20)
	for _, off := range []int64{0, 5 << 20} {
		if _, err := d.ReadAt(b, off); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", bytes.TrimRight(b, "\x00"))
	}
	if err := d.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// written to the base
	// written to the child
}

// writeText puts a text into a disk.
func writeText(name, text string, off int64) {
	d, err := vhdfile.OpenDisk(name, vhdfile.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.WriteAt([]byte(text), off); err != nil {
		log.Fatal(err)
	}
	if err := d.Close(); err != nil { // what is written is durable from here on
		log.Fatal(err)
	}
}

// A raw disk becomes a fixed VHD whose size Azure takes.
func ExampleConvert() {
	raw := bytes.Repeat([]byte("raw disk"), 64*3)
	dst, err := os.CreateTemp("", "*.vhd")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(dst.Name())
	defer dst.Close()

	o := vhd.CreateOptions{Type: vhd.Fixed, SizeUnit: vhd.AzureSizeUnit, UUID: image.RandomUUID([16]byte{1})}
	src := vhd.Whole(bytes.NewReader(raw), int64(len(raw)))
	if err := vhd.Convert(context.Background(), dst, src, o, vhd.CopyOptions{}); err != nil {
		log.Fatal(err)
	}
	st, err := dst.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(raw), "bytes became a file of", st.Size())
	// Output: 1536 bytes became a file of 1049088
}

// A dynamic VHD is written to something that cannot seek.
func ExampleStream() {
	raw := make([]byte, 8<<20)
	copy(raw[3<<20:], "the only data")
	src := vhd.Whole(bytes.NewReader(raw), int64(len(raw)))
	o := vhd.CreateOptions{UUID: image.RandomUUID([16]byte{1})}
	c := vhd.CopyOptions{DetectZeros: true}

	var pipe bytes.Buffer
	if err := vhd.Stream(context.Background(), &pipe, src, o, c); err != nil {
		log.Fatal(err)
	}
	m, err := vhd.Open(bytes.NewReader(pipe.Bytes()), int64(pipe.Len()))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Type(), "with", m.AllocatedBlocks(), "of 4 blocks")
	// Output: dynamic with 1 of 4 blocks
}

// Changed tells what a backup of a snapshot has to hold.
func ExampleChain_Changed() {
	var base, child memFile
	if err := vhd.Create(&base, vhd.CreateOptions{Size: 1 << 20, UUID: image.RandomUUID([16]byte{1})}); err != nil {
		log.Fatal(err)
	}
	parent, err := vhd.Open(&base, base.size())
	if err != nil {
		log.Fatal(err)
	}
	if err := vhd.Snapshot(&child, parent, "base.vhd", vhd.CreateOptions{UUID: image.RandomUUID([16]byte{2})}); err != nil {
		log.Fatal(err)
	}
	d, err := vhd.OpenDisk(&child, child.size(), []*vhd.Image{parent})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := d.WriteAt(make([]byte, 1024), 4096); err != nil {
		log.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		log.Fatal(err)
	}
	leaf, err := vhd.Open(&child, child.size())
	if err != nil {
		log.Fatal(err)
	}
	c, err := vhd.NewChain(leaf, parent)
	if err != nil {
		log.Fatal(err)
	}
	for e, err := range c.Changed(1, 0, c.Size()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Length, "bytes at", e.Offset)
	}
	// Output: 1024 bytes at 4096
}
