#!/bin/busybox sh
# The guest's first and only program: it loads what the disks need, starts the guest agent, and takes commands from the console.
/bin/busybox mkdir -p /proc /sys /dev /mnt /disk/b /disk/c
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
for m in $(cat /modules/order); do insmod /modules/$m.ko; done

i=0
while [ ! -e /dev/vda2 ] && [ $i -lt 200 ]; do usleep 20000; i=$((i+1)); done
mount -t ext4 /dev/vda2 /mnt || echo "disksync guest: no root"
for d in b c; do
	[ ! -e /dev/vd$d ] || mount -t ext4 /dev/vd$d /disk/$d
done

# The guest agent is a program of the root file system.
for p in /sys/class/virtio-ports/*; do
	[ "$(cat $p/name 2>/dev/null)" = org.qemu.guest_agent.0 ] || continue
	for d in dev proc sys disk/b disk/c; do mount -o bind /$d /mnt/$d; done # it freezes what it sees
	(cd / && chroot /mnt /usr/sbin/qemu-ga -m virtio-serial -p /dev/${p##*/} -t /run </dev/null >/dev/null 2>&1) &
done

# write_files FOLDER FIRST LAST BYTES: file I has BYTES bytes of the line "I" repeated, and is synced.
write_files() {
	mkdir -p $1
	for i in $(seq $2 $3); do
		yes $i | head -c $4 >$1/$i && sync || return 1
	done
}
# sums FOLDER prints the digest of each file, in the order of the names.
sums() { (cd $1 && sha256sum $(ls | sort)); }
# off ends the guest in order, also when somebody else than the console asks for it.
cat >/bin/off <<'END'
#!/bin/sh
[ -z "$1" ] || echo "disksync guest: $1" >/dev/ttyS0
cd /
killall qemu-ga 2>/dev/null
sync
for m in /mnt/disk/c /mnt/disk/b /disk/c /disk/b /mnt/dev /mnt/proc /mnt/sys /mnt; do umount $m 2>/dev/null; done
mount -o remount,ro /mnt 2>/dev/null
sync
poweroff -f
END
# The power button. The agent comes by /sbin/shutdown of the root file system.
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\nexec /bin/off "power button"\n' >/etc/acpi/PWRF/00000080
chmod +x /bin/off /etc/acpi/PWRF/00000080
acpid -l /dev/null
# no_button and no_agent make the guest one that does not listen to its power button, and one that has no agent. Either may still be about
# to start when the console is ready.
end() {
	until killall $1 2>/dev/null; do usleep 20000; done
	while killall -0 $1 2>/dev/null; do usleep 20000; done
}
no_button() { end acpid; }
no_agent() { end qemu-ga; }

echo "disksync guest ready"
while read -r line; do
	eval "$line" </dev/null
	status=$?
	echo
	echo "=$status="
done
off
