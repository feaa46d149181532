package diskmap_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"strings"
	"testing"

	"disksync/diskmap"
	"disksync/internal/testkit"
	"disksync/volume/volumetest"
)

// newDisk makes a disk of so many MiB, full of garbage, with a partition table that sfdisk makes of a script.
func newDisk(t testing.TB, mib int, script string) string {
	t.Helper()
	img := filled(t, mib)
	cmd := exec.Command(testkit.Tool(t, "sfdisk"), "-q", "--wipe", "never", img)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	return img
}

// place copies a file system into a disk.
func place(t testing.TB, disk string, mib int, volume string) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytesOf(t, volume), int64(mib)<<20); err != nil {
		t.Fatal(err)
	}
}

// made makes a file system of so many MiB on garbage.
func made(t testing.TB, mib int, name string, args ...string) string {
	t.Helper()
	img := filled(t, mib)
	volumetest.Run(t, name, append(args, img)...)
	return img
}

func kinds(m *diskmap.Map) string {
	var out []string
	for _, v := range m.Volumes() {
		word := v.Name + " " + string(v.Kind)
		if v.Kept != "" {
			word += " kept"
		} else if v.Free == 0 {
			word += " full"
		}
		out = append(out, word)
	}
	return strings.Join(out, ", ")
}

// TestTables: volumes are found wherever a table says, and everything between them stays.
func TestTables(t *testing.T) {
	ext := made(t, 8, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard")
	swap := made(t, 4, "mkswap")
	fat := made(t, 8, "mkfs.fat", "-F", "12", "-s", "8")
	ntfs := made(t, 8, "mkntfs", "-q", "-F", "-Q", "-p", "0", "-H", "0", "-S", "0")
	tests := []struct {
		name, script, want string
	}{
		{"mbr", "label: dos\nstart=1MiB,size=8MiB,type=83\nstart=9MiB,size=4MiB,type=82\nstart=20MiB,size=8MiB,type=c\nstart=30MiB,size=8MiB,type=7",
			"partition 1 ext4, partition 2 swap, partition 3 fat12, partition 4 ntfs"},
		{"logical", "label: dos\nstart=1MiB,size=8MiB,type=83\nstart=9MiB,size=31MiB,type=5\nstart=10MiB,size=4MiB\nstart=20MiB,size=8MiB\nstart=30MiB,size=8MiB",
			"partition 1 ext4, partition 5 unknown kept, partition 6 fat12, partition 7 ntfs"},
		{"gpt", "label: gpt\nstart=1MiB,size=8MiB\nstart=9MiB,size=4MiB\nstart=20MiB,size=8MiB,type=U\nstart=30MiB,size=8MiB",
			"partition 1 ext4, partition 2 swap, partition 3 fat12, partition 4 ntfs"},
		{"gpt types", "label: gpt\nstart=1MiB,size=8MiB,type=A19D880F-05FC-4D3B-A006-743F0F84911E\nstart=9MiB,size=4MiB,type=21686148-6449-6E6F-744E-656564454649\n" +
			"start=20MiB,size=8MiB,type=AF9B60A0-1431-4F62-BC68-3311714A69AD\nstart=30MiB,size=8MiB,type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
			"partition 1 unknown kept, partition 2 blank full, partition 3 unknown kept, partition 4 blank full"},
		{"raid", "label: dos\nstart=1MiB,size=8MiB,type=fd\nstart=9MiB,size=4MiB,type=82", "partition 1 unknown kept, partition 2 swap"},
		{"dynamic", "label: dos\nstart=1MiB,size=38MiB,type=42", "the disk unknown kept"},
		{"empty", "label: dos\n", "the disk unknown kept"},
		{"larger places", "label: dos\nstart=1MiB,size=8MiB\nstart=9MiB,size=5MiB\nstart=20MiB,size=9MiB\nstart=30MiB,size=9MiB",
			"partition 1 ext4, partition 2 swap, partition 3 fat12, partition 4 ntfs"},
		{"smaller places", "label: dos\nstart=1MiB,size=7MiB\nstart=9MiB,size=3MiB\nstart=20MiB,size=7MiB\nstart=30MiB,size=7MiB",
			"partition 1 ext4 kept, partition 2 swap kept, partition 3 fat32 kept, partition 4 ntfs kept"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			disk := newDisk(t, 40, test.script)
			place(t, disk, 1, ext)
			if test.name != "logical" {
				place(t, disk, 9, swap)
			}
			place(t, disk, 20, fat)
			place(t, disk, 30, ntfs)
			trimmed, m := trim(t, disk)
			if got := kinds(m); got != test.want {
				t.Fatalf("%s, want %s: %+v", got, test.want, m.Volumes())
			}
			was, is := bytesOf(t, disk), bytesOf(t, trimmed)
			for _, v := range m.Volumes() {
				n := changed(was[v.Offset:][:v.Size], is[v.Offset:][:v.Size])
				if n > v.Free || n < v.Free*3/4 {
					t.Errorf("%d bytes of %+v became zeros", n, v)
				}
				copy(was[v.Offset:], is[v.Offset:][:v.Size])
			}
			if !bytes.Equal(was, is) {
				t.Error("something outside of the volumes was changed")
			}
		})
	}
}

// TestDamagedTables: a table in doubt keeps everything.
func TestDamagedTables(t *testing.T) {
	ext := made(t, 8, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard")
	gpt := newDisk(t, 24, "label: gpt\nstart=1MiB,size=8MiB\nstart=10MiB,size=8MiB\n")
	mbr := newDisk(t, 24, "label: dos\nstart=1MiB,size=8MiB\nstart=10MiB,size=10MiB,type=5\nstart=11MiB,size=8MiB\n")
	place(t, gpt, 1, ext)
	place(t, gpt, 10, ext)
	place(t, mbr, 1, ext)
	place(t, mbr, 11, ext)
	le := binary.LittleEndian
	const backup = 24<<20 - 512
	tests := []struct {
		name string
		from string
		why  string // empty: all is well
		edit func(b []byte)
	}{
		{"gpt", gpt, "", func([]byte) {}},
		{"first damaged", gpt, "", func(b []byte) { b[512+40] ^= 1 }},
		{"first entries damaged", gpt, "", func(b []byte) { b[1024+40] ^= 1 }},
		{"first lost", gpt, "", func(b []byte) { clear(b[512:2048]) }},
		{"copy lost", gpt, "", func(b []byte) { clear(b[backup:]) }},
		{"both damaged", gpt, "GPT, is damaged", func(b []byte) { b[512+40] ^= 1; b[backup+40] ^= 1 }},
		{"copies differ", gpt, "copies of its partition table differ", func(b []byte) { b[backup+56] ^= 1; gptSum(b[backup:]) }},
		{"gpt does not count", gpt, "two partition tables", func(b []byte) { b[450] = 0x83 }},
		{"hybrid", gpt, "", func(b []byte) { entry(b, 1, 0x83, 2048, 16384) }},
		{"hybrid differs", gpt, "differ", func(b []byte) { entry(b, 1, 0x83, 2048, 16383) }},
		{"gpt overlaps", gpt, "overlap", func(b []byte) { le.PutUint64(b[1024+40:], 20600); gptSums(b) }},
		{"gpt outside", gpt, "makes no sense", func(b []byte) { le.PutUint64(b[1024+40:], 1<<40); gptSums(b) }},
		{"gpt backwards", gpt, "makes no sense", func(b []byte) { le.PutUint64(b[1024+40:], 3); gptSums(b) }},
		{"partition on table", gpt, "overlap", func(b []byte) {
			le.PutUint64(b[512+40:], 2)
			le.PutUint64(b[1024+32:], 20)
			gptSums(b)
			clear(b[backup:])
		}},
		{"mbr", mbr, "", func([]byte) {}},
		{"mbr overlaps", mbr, "overlap", func(b []byte) { entry(b, 2, 0x83, 2049, 100) }},
		{"mbr overlaps logical", mbr, "overlap", func(b []byte) { entry(b, 2, 0x83, 12<<11, 100) }},
		{"mbr outside", mbr, "no sense", func(b []byte) { entry(b, 2, 0x83, 30<<11, 100) }},
		{"mbr strange", mbr, "no sense", func(b []byte) { b[446] = 7 }},
		{"logical outside", mbr, "no sense", func(b []byte) { le.PutUint32(b[10<<20+446+12:], 10<<11) }},
		{"logical lost", mbr, "damaged", func(b []byte) { b[10<<20+511] = 0 }},
		{"logical circle", mbr, "makes no sense", func(b []byte) { entry(b[10<<20:], 1, 5, 0, 100) }},
		{"logical loop", mbr, "has no end", func(b []byte) {
			entry(b[10<<20:], 1, 5, 18432, 100)
			copy(b[19<<20:], b[10<<20:][:512])
			entry(b[19<<20:], 0, 0x83, 1, 100)
		}},
		{"logical tables overlap", mbr, "overlap", func(b []byte) {
			entry(b[10<<20:], 1, 5, 4096, 100) // within the partition
			copy(b[12<<20:], b[10<<20:][:512])
			entry(b[12<<20:], 0, 0x83, 2, 1)
			entry(b[12<<20:], 1, 0, 0, 0)
		}},
		{"table and file system", mbr, "marks of ext", func(b []byte) { le.PutUint16(b[1080:], 0xef53) }},
		{"marks of both", mbr, "marks of swap", func(b []byte) { copy(b[4086:], "SWAPSPACE2") }},
		{"whole disk raid", mbr, "software RAID", func(b []byte) { copy(b[len(b)-64<<10:], "\xfc\x4e\x2b\xa9") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := bytesOf(t, test.from)
			test.edit(b)
			m := scan(t, inMemory(b))
			if test.why == "" {
				if got := kinds(m); strings.Contains(got, "kept") || strings.Count(got, "ext4") != 2 {
					t.Errorf("%s: %+v", got, m.Volumes())
				}
				return
			}
			checkKept(t, b, test.why)
		})
	}
}

// TestLargeSectors: a GPT may count in sectors of 4096 bytes.
func TestLargeSectors(t *testing.T) {
	b := bytesOf(t, filled(t, 20))
	copy(b[8<<20:], bytesOf(t, made(t, 8, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard")))
	clear(b[:1<<20])
	entry(b, 0, 0xee, 1, 0xffffffff)
	b[510], b[511] = 0x55, 0xaa
	le := binary.LittleEndian
	e := b[8192:][:128*128]
	copy(e, "some type of it, some name of it")
	le.PutUint64(e[32:], 8<<20/4096)
	le.PutUint64(e[40:], 16<<20/4096-1)
	h := b[4096:]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	for at, v := range map[int]uint64{24: 1, 32: 20<<20/4096 - 1, 40: 6, 48: 20<<20/4096 - 6, 72: 2} {
		le.PutUint64(h[at:], v)
	}
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(e))
	gptSum(h)
	m := scan(t, inMemory(b))
	if v := one(t, m); v.Kind != diskmap.Ext4 || v.Kept != "" || v.Offset != 8<<20 || v.Size != 8<<20 {
		t.Errorf("%+v", v)
	}
}

// entry writes an entry of an MBR.
func entry(b []byte, i int, kind byte, start, size uint32) {
	e := b[446+16*i:][:16]
	clear(e)
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], start)
	binary.LittleEndian.PutUint32(e[12:], size)
}

// TestSleep: what a sleeping system remembers is about all of the disk.
func TestSleep(t *testing.T) {
	ext := made(t, 8, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard")
	swap := made(t, 4, "mkswap")
	for _, mark := range []string{"S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001"} {
		disk := newDisk(t, 24, "label: dos\nstart=1MiB,size=8MiB\nstart=9MiB,size=4MiB\n")
		place(t, disk, 1, ext)
		place(t, disk, 9, swap)
		b := bytesOf(t, disk)
		copy(b[9<<20+4086:], mark)
		m := scan(t, inMemory(b))
		if got := kinds(m); got != "partition 1 ext4 kept, partition 2 swap kept" && got != "partition 1 unknown kept, partition 2 swap kept" || m.Free() != 0 {
			t.Errorf("%q: %s", mark, got)
		}
	}
}

// TestOthers: what is not understood is named and kept.
func TestOthers(t *testing.T) {
	for _, test := range []struct{ kind, at, mark string }{
		{"xfs", "0", "XFSB"}, {"btrfs", "65600", "_BHRfS_M"}, {"LUKS", "0", "LUKS\xba\xbe"}, {"LVM", "512", "LABELONE"},
		{"BitLocker", "3", "-FVE-FS-"}, {"ReFS", "3", "ReFS\x00"}, {"f2fs", "1024", "\x10\x20\xf5\xf2"}, {"iso9660", "32769", "CD001"},
	} {
		b := bytes.Repeat([]byte(garbage), 1<<15)
		copy(b[number(test.at):], test.mark)
		m := scan(t, inMemory(b))
		if v := one(t, m); string(v.Kind) != test.kind || v.Kept == "" {
			t.Errorf("%+v, want %s", v, test.kind)
		}
	}
	for _, size := range []int{0, 1, 511, 512, 1024, 5000, 1 << 20} {
		m := scan(t, inMemory(make([]byte, size)))
		if v := one(t, m); v.Kind != diskmap.Blank || v.Kept != "" || v.Free != 0 {
			t.Errorf("%d zeros are %+v", size, v)
		}
	}
	for _, tool := range [][]string{{"mkfs.xfs", "-q", "-f"}, {"mkfs.btrfs", "-q", "-f"}} {
		m := scan(t, open(t, made(t, 320, tool[0], tool[1:]...)))
		if v := one(t, m); "mkfs."+string(v.Kind) != tool[0] || v.Kept == "" {
			t.Errorf("%+v", v)
		}
	}
}

// gptSums mends the checksums of a GPT after a change, and of its copy.
func gptSums(b []byte) {
	entries := b[1024 : 1024+128*128]
	copy(b[len(b)-33*512:], entries)
	for _, h := range [][]byte{b[512:1024], b[len(b)-512:]} {
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		copy(h[40:56], b[512+40:])
		gptSum(h)
	}
}

func gptSum(h []byte) {
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
}
