#!/bin/sh
# build.sh OUT PUBLIC_KEY SOURCE... : make the disk and the kernel of kvm01 in OUT. No loop device, no boot loader, needs root.
set -eu
recipe=$(cd "$(dirname "$0")" && pwd)
out=$1 key=$2
shift 2
root=$out/rootfs

without=
for path in /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info; do
    without="$without --dpkgopt=path-exclude=$path/*"
done
# libvirt asks each QEMU that is there what it can do: again after each restart, and for seconds under emulation. One is enough.
without="$without --dpkgopt=path-exclude=/usr/bin/qemu-system-i386 --dpkgopt=path-exclude=/usr/libexec/qemu-system-i386"
for part in kernel/sound kernel/drivers/gpu kernel/drivers/media kernel/drivers/staging kernel/drivers/infiniband \
    kernel/drivers/iio kernel/drivers/isdn kernel/drivers/net/wireless; do
    without="$without --dpkgopt=path-exclude=/lib/modules/*/$part/*"
done

# The initramfs settings must be there before the kernel is configured: they decide what its initramfs holds.
# shellcheck disable=SC2086  # one option a word
mmdebstrap --quiet --mode=root --variant=minbase --aptopt='APT::Install-Recommends "false"' $without \
    --include="$(sed '/^#/d' "$recipe/packages.txt" | paste -sd,)" \
    --essential-hook="cp -a '$recipe/rootfs/etc/initramfs-tools' \"\$1/etc/\"" \
    --customize-hook="sh '$recipe/customize.sh' \"\$1\" '$recipe' '$key'" \
    bookworm "$root" "$@"

cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/boot/initrd.img-* "$out/initrd.img"
cp "$root/etc/ssh/ssh_host_ed25519_key.pub" "$out/host_key.pub"
mke2fs -q -t ext4 -L kvm01 -O '^has_journal' -E lazy_itable_init=0 -d "$root" "$out/rootfs.raw" 3G
qemu-img convert -O qcow2 "$out/rootfs.raw" "$out/rootfs.qcow2"
qemu-img create -q -f qcow2 "$out/lun.qcow2" 256M
rm -rf "$root" "$out/rootfs.raw"
