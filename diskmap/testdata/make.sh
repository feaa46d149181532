#!/bin/sh
# Makes the small disks that FuzzScan begins with and TestHostile damages. Run it in this folder.
set -eu
PATH=$PATH:/usr/sbin:/sbin
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
letter=$tmp/letter
yes 'what is in a letter' | head -c 30000 >"$letter"
printf 'wake' >"$tmp/hiberfil.sys"
head -c 20000 /dev/zero >>"$tmp/hiberfil.sys"
mkdir "$tmp/dir"
cp "$letter" "$tmp/dir"

new() { rm -f "$tmp/$1"; truncate -s "$2" "$tmp/$1"; }
uuid=11111111-2222-3333-4444-555555555555

new ext2 1M; mke2fs -q -F -t ext2 -b 1024 -U $uuid -d "$tmp/dir" "$tmp/ext2"
new ext3 4M; mke2fs -q -F -t ext3 -b 1024 -J size=1 -g 512 -U $uuid -d "$tmp/dir" "$tmp/ext3"
new ext4 4M; mke2fs -q -F -t ext4 -b 1024 -J size=1 -U $uuid -d "$tmp/dir" "$tmp/ext4"
new bigalloc 5M; mke2fs -q -F -t ext4 -b 1024 -C 4096 -J size=1 -O bigalloc,^metadata_csum,uninit_bg -U $uuid -d "$tmp/dir" "$tmp/bigalloc"
new fat12 1M; mkfs.fat -F 12 -i 11223344 "$tmp/fat12" >/dev/null
new fat16 3M; mkfs.fat -F 16 -s 1 -i 11223344 "$tmp/fat16" >/dev/null
new fat32 3M; mkfs.fat -F 32 -s 1 -i 11223344 "$tmp/fat32" >/dev/null
# Of a FAT32 this small mtools wants to know nothing.
for f in fat12 fat16; do mcopy -i "$tmp/$f" "$tmp/hiberfil.sys" "$letter" ::; done
new ntfs 2M; mkntfs -q -F -Q -c 512 -p 0 -H 0 -S 0 "$tmp/ntfs"
ntfscp "$tmp/ntfs" "$letter" letter
ntfscp "$tmp/ntfs" "$tmp/hiberfil.sys" hiberfil.sys
new exfat 2M; mkfs.exfat -c 4096 -b 64K "$tmp/exfat" >/dev/null
new swap 64K; mkswap -U $uuid "$tmp/swap" >/dev/null 2>&1

new mbr 5M
printf 'label: dos\nstart=2048,size=2048,type=83\nstart=4096,size=6144,type=5\nstart=4200,size=128\nstart=5000,size=2048\n' | sfdisk -q "$tmp/mbr"
dd if="$tmp/ext2" of="$tmp/mbr" bs=512 seek=2048 conv=notrunc status=none
dd if="$tmp/swap" of="$tmp/mbr" bs=512 seek=4200 conv=notrunc status=none
dd if="$tmp/fat12" of="$tmp/mbr" bs=512 seek=5000 conv=notrunc status=none
new gpt 5M
printf 'label: gpt\nstart=2048,size=2048\nstart=4200,size=128\nstart=5000,size=2048\n' | sfdisk -q "$tmp/gpt"
dd if="$tmp/ext2" of="$tmp/gpt" bs=512 seek=2048 conv=notrunc status=none
dd if="$tmp/swap" of="$tmp/gpt" bs=512 seek=4200 conv=notrunc status=none
dd if="$tmp/fat12" of="$tmp/gpt" bs=512 seek=5000 conv=notrunc status=none

for f in ext2 ext3 ext4 bigalloc fat12 fat16 fat32 ntfs exfat swap mbr gpt; do
	gzip -9n <"$tmp/$f" >"$f.raw.gz"
done
