package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"disksync/internal/testkit"
)

const (
	commandLine    = "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init tsc=reliable"
	mbr            = "/usr/lib/syslinux/mbr/mbr.bin"
	efiBoot        = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
	shutdownScript = "#!/bin/busybox sh\nexec /bin/busybox chroot /proc/1/root /bin/off agent\n"
	syslinuxCfg    = "DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n KERNEL vmlinuz\n INITRD initrd\n APPEND " + commandLine + "\n"
	efiCfg         = "timeout 0\ndefault guest.conf\n"
	efiEntry       = "title guest\nlinux /vmlinuz\ninitrd /initrd\noptions " + commandLine + "\n"
)

// builder makes an image without root.
type builder struct {
	testing.TB
	dir, pkg string
}

func (b *builder) path(name string) string { return filepath.Join(b.dir, name) }

func (b *builder) write(name, text string, perm os.FileMode) {
	b.Helper()
	b.mkdir(filepath.Dir(name))
	if err := os.WriteFile(b.path(name), []byte(text), perm); err != nil {
		b.Fatal(err)
	}
}

func (b *builder) mkdir(name string) {
	b.Helper()
	if err := os.MkdirAll(b.path(name), 0o755); err != nil {
		b.Fatal(err)
	}
}

func (b *builder) copy(from, name string) {
	b.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		b.Fatal(err)
	}
	b.write(name, string(data), 0o755)
}

func (b *builder) sparse(name string, size int64) string {
	b.Helper()
	b.write(name, "", 0o600)
	if err := os.Truncate(b.path(name), size); err != nil {
		b.Fatal(err)
	}
	return b.path(name)
}

func (b *builder) build(out string) {
	b.Helper()
	run(b, b.dir, "dpkg-deb", "-x", b.pkg, b.path("kernel"))
	b.initrd()
	esp, root := b.esp(), b.root()
	disk := b.sparse("disk", Size)
	cmd := exec.Command("sfdisk", "-q", disk)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("label: dos\nlabel-id: 0xd15c5e7c\nstart=%d, size=%d, type=ef, bootable\nstart=%d, size=%d, type=83\n",
		espOffset>>9, espSize>>9, RootOffset>>9, RootSize>>9))
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("sfdisk: %v: %s", err, text)
	}
	run(b, "", "dd", "if="+mbr, "of="+disk, "bs=440", "count=1", "conv=notrunc", "status=none")
	run(b, "", "dd", "if="+esp, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", espOffset>>20), "conv=notrunc,sparse", "status=none")
	run(b, "", "dd", "if="+root, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", RootOffset>>20), "conv=notrunc,sparse", "status=none")
	run(b, "", "cp", "--sparse=always", disk, out)
}

// one returns the only file that fits a pattern.
func (b *builder) one(pattern string) string {
	b.Helper()
	found, err := filepath.Glob(b.path(pattern))
	if err != nil || len(found) != 1 {
		b.Fatalf("%s: found %v, %v", pattern, found, err)
	}
	return found[0]
}

// initrd packs the first file system: busybox, the modules, and what runs.
func (b *builder) initrd() {
	b.Helper()
	b.write("initrd.d/init", initScript, 0o755)
	b.copy(testkit.Tool(b, "busybox"), "initrd.d/bin/busybox")
	for _, m := range modules {
		// The package has them unpacked; a name is in one folder only.
		found := strings.Fields(run(b, "", "find", b.path("kernel/lib/modules"), "-name", m+".ko"))
		if len(found) != 1 {
			b.Fatalf("module %s: found %v", m, found)
		}
		b.copy(found[0], "initrd.d/modules/"+m+".ko")
	}
	b.write("initrd.d/modules/order", strings.Join(modules, " "), 0o644)
	run(b, b.path("initrd.d"), "sh", "-c", "find . | sort | cpio -o -H newc -R 0:0 --reproducible 2>/dev/null | gzip -1n >../initrd")
}

// esp makes the partition that both firmwares start from: syslinux for one, systemd-boot for the other.
func (b *builder) esp() string {
	b.Helper()
	kernel := b.one("kernel/boot/vmlinuz-*")
	esp := b.sparse("esp", espSize)
	run(b, "", "mkfs.fat", "-F", "16", "-h", fmt.Sprint(espOffset>>9), "-i", "d15c0001", esp)
	b.write("syslinux.cfg", syslinuxCfg, 0o644)
	b.write("loader.conf", efiCfg, 0o644)
	b.write("guest.conf", efiEntry, 0o644)
	run(b, b.dir, "mmd", "-i", esp, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries")
	for to, from := range map[string]string{
		"/vmlinuz": kernel, "/initrd": "initrd", "/syslinux.cfg": "syslinux.cfg",
		"/EFI/BOOT/BOOTX64.EFI": efiBoot, "/loader/loader.conf": "loader.conf", "/loader/entries/guest.conf": "guest.conf",
	} {
		run(b, b.dir, "mcopy", "-i", esp, from, "::"+to)
	}
	run(b, b.dir, "syslinux", "--install", esp)
	return esp
}

// root makes the ext4 file system, with the guest agent and its libraries.
func (b *builder) root() string {
	b.Helper()
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "var/run", "data", "disk/b", "disk/c"} {
		b.mkdir("root.d/" + dir)
	}
	agent := testkit.Tool(b, "qemu-ga")
	b.copy(agent, "root.d/usr/sbin/qemu-ga")
	// What the agent runs to shut the guest down.
	b.copy(testkit.Tool(b, "busybox"), "root.d/bin/busybox")
	b.write("root.d/sbin/shutdown", shutdownScript, 0o755)
	for line := range strings.Lines(run(b, "", "ldd", agent)) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				b.copy(word, "root.d"+word)
			}
		}
	}
	root := b.sparse("root", RootSize)
	run(b, b.dir, "mke2fs", "-q", "-t", "ext4", "-F", "-m", "0", "-E", "root_owner=0:0", "-d", "root.d", root)
	return root
}
