package demodisk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

const (
	partitionStart = 1 << 20
	volumeLabel    = "DISKSYNC"
	// ioBytes is how much is read or written at once: the library lists a file's clusters at every call, and rewrites
	// its directory at every write.
	ioBytes = 1 << 20
)

// A volume is the file system of an image. It is not safe for concurrent use.
type volume struct {
	layout
	image *os.File
	fs    *fat12.FileSystem
	table *table
	dirs  map[string]uint32 // first cluster of the directories seen
	in    *bufio.Reader
	out   *bufio.Writer
}

// format writes a partition table and an empty file system to an image.
func format(image *os.File, size int64) (*volume, error) {
	partition := size - partitionStart
	disk := &mbr.Table{Partitions: []*mbr.Partition{{
		Index: 1,
		Type:  mbr.Fat32LBA,
		Start: partitionStart / sectorBytes,
		Size:  uint32(partition / sectorBytes),
	}}}
	if err := disk.Write(image, size); err != nil {
		return nil, fmt.Errorf("write partition table: %w", err)
	}
	if _, err := fat32.Create(file.New(image, false), partition, partitionStart, sectorBytes, volumeLabel, true); err != nil {
		return nil, fmt.Errorf("write file system: %w", err)
	}
	return openVolume(image, false)
}

// openVolume reads the file system of an image made by format.
func openVolume(image *os.File, readOnly bool) (*volume, error) {
	disk, err := mbr.Read(image, sectorBytes, sectorBytes)
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	if len(disk.Partitions) == 0 || disk.Partitions[0].Type != mbr.Fat32LBA {
		return nil, errors.New("not an image made by this package: no FAT32 partition")
	}
	start, size := disk.Partitions[0].GetStart(), disk.Partitions[0].GetSize()
	storage := file.New(image, readOnly)
	if _, err := fat32.Read(storage, size, start, sectorBytes); err != nil { // checks what we take for granted
		return nil, fmt.Errorf("read file system: %w", err)
	}
	l, err := readLayout(image, start, size)
	if err != nil {
		return nil, err
	}
	v := &volume{
		layout: l,
		image:  image,
		table:  newTable(l.clusters),
		dirs:   map[string]uint32{".": rootCluster},
		in:     bufio.NewReaderSize(nil, ioBytes),
		out:    bufio.NewWriterSize(nil, ioBytes),
	}
	entries := make([]byte, v.table.Size())
	if _, err := image.ReadAt(entries, l.tables[0]); err != nil {
		return nil, fmt.Errorf("read allocation table: %w", err)
	}
	v.table.FromBytes(entries)
	v.fs = fat12.NewFileSystem(storage, nil, v.table, uint32(l.data-start), l.clusterBytes, size, start,
		0, 0, uint64(l.tables[0]-start), uint64(l.tables[1]-start))
	return v, nil
}

// finish puts right what the library leaves wrong, writes the allocation table and syncs the image. The volume, and what
// is new in it since it was dated last, is dated now.
func (v *volume) finish(last, now time.Time) error {
	if err := v.tidy(last, now); err != nil {
		return err
	}
	entries := v.table.onDisk()
	for _, at := range v.tables {
		if _, err := v.image.WriteAt(entries, at); err != nil {
			return fmt.Errorf("write allocation table: %w", err)
		}
	}
	if err := v.image.Sync(); err != nil {
		return fmt.Errorf("sync image: %w", err)
	}
	return nil
}

// enter makes a directory the one in which names are looked up. It makes those that are missing.
func (v *volume) enter(dir string) error {
	if cluster, ok := v.dirs[dir]; ok {
		v.table.dir = cluster
		return nil
	}
	if err := v.enter(path.Dir(dir)); err != nil {
		return err
	}
	if err := v.fs.Mkdir(path.Base(dir)); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	f, err := v.open(path.Base(dir), os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", dir, err)
	}
	chain, err := f.GetClusterChain()
	if err != nil {
		return fmt.Errorf("open directory %s: %w", dir, err)
	}
	v.dirs[dir] = chain[0]
	v.table.dir = chain[0]
	return nil
}

// open opens a file of the directory entered.
func (v *volume) open(name string, flag int) (*fat12.File, error) {
	opened, err := v.fs.OpenFile(name, flag)
	if err != nil {
		return nil, err
	}
	f, ok := opened.(*fat12.File)
	if !ok {
		panic("demodisk: internal error: the library opens files of another type")
	}
	return f, nil
}

// read opens a file; the reader is good until the next one is opened.
func (v *volume) read(dir, name string) (io.Reader, error) {
	if err := v.enter(dir); err != nil {
		return nil, err
	}
	f, err := v.open(name, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path.Join(dir, name), err)
	}
	v.in.Reset(f)
	return v.in, nil
}

// write makes a new file and returns its size.
func (v *volume) write(dir, name string, content io.Reader) (int64, error) {
	if err := v.enter(dir); err != nil {
		return 0, err
	}
	f, err := v.open(name, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return 0, fmt.Errorf("create %s: %w", path.Join(dir, name), err)
	}
	v.out.Reset(f)
	n, err := v.out.ReadFrom(content)
	if err != nil {
		return n, fmt.Errorf("write %s: %w", path.Join(dir, name), err)
	}
	if err := v.out.Flush(); err != nil {
		return n, fmt.Errorf("write %s: %w", path.Join(dir, name), err)
	}
	return n, nil
}

// remove removes a file and frees its clusters, which the library does not.
func (v *volume) remove(dir, name string) error {
	if err := v.enter(dir); err != nil {
		return err
	}
	f, err := v.open(name, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("remove %s: %w", path.Join(dir, name), err)
	}
	chain, err := f.GetClusterChain()
	if err != nil {
		return fmt.Errorf("remove %s: %w", path.Join(dir, name), err)
	}
	if err := v.fs.Remove(name); err != nil {
		return fmt.Errorf("remove %s: %w", path.Join(dir, name), err)
	}
	for _, cluster := range chain {
		v.table.entries[cluster] = entryFree
	}
	return v.wipe()
}

// rename renames a file inside its directory, which is all that the library can do.
func (v *volume) rename(dir, from, to string) error {
	if err := v.enter(dir); err != nil {
		return err
	}
	if err := v.fs.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s: %w", path.Join(dir, from), err)
	}
	return v.wipe()
}

// wipe clears the clusters that directories had to give back. The times in them are those of the clock, and would make
// one image differ from the next.
func (v *volume) wipe() error {
	for _, cluster := range v.table.dropped {
		if v.table.entries[cluster] != entryFree {
			continue
		}
		if _, err := v.image.WriteAt(make([]byte, v.clusterBytes), v.place(cluster)); err != nil {
			return fmt.Errorf("clear cluster %d: %w", cluster, err)
		}
	}
	v.table.dropped = v.table.dropped[:0]
	return nil
}

// list returns what is in a directory, in the order of the disk.
func (v *volume) list(dir string) ([]fs.DirEntry, error) {
	if err := v.enter(dir); err != nil {
		return nil, err
	}
	list, err := v.fs.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return list, nil
}
