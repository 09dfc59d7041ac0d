#!/bin/sh
# customize.sh ROOT RECIPE PUBLIC_KEY : turn a fresh Debian root file system into kvm01.
set -eu
root=$1 recipe=$2 key=$3

cp -a "$recipe/rootfs/." "$root/"
chown -R root:root "$root/etc" "$root/root"
rm -f "$root"/etc/ssh/ssh_host_*
chroot "$root" ssh-keygen -q -t ed25519 -N '' -C kvm01 -f /etc/ssh/ssh_host_ed25519_key

# checker: may read libvirt, may not sudo. What an unprivileged monitoring account looks like.
chroot "$root" useradd -m -s /bin/sh -G libvirt checker
for home in root home/checker; do
    install -d -m 700 "$root/$home/.ssh"
    install -m 600 "$key" "$root/$home/.ssh/authorized_keys"
done
chroot "$root" chown -R checker: /home/checker

# The one clock that kvm01 believes is the test run's own (see timeserver.py).
sed -i '/^pool /d; /^server /d' "$root/etc/chrony/chrony.conf"
echo 'server 10.0.2.2 port 11123 iburst minpoll 0 maxpoll 4' >> "$root/etc/chrony/chrony.conf"

# What web01 boots: this kernel, and an initramfs that is one busybox.
images=$root/var/lib/libvirt/images
mkdir -p "$images"
ln -s "/boot/$(basename "$root"/boot/vmlinuz-*)" "$images/vmlinuz"
ln -s "/boot/$(basename "$root"/boot/initrd.img-*)" "$images/initrd.img"
tiny=$(mktemp -d)
mkdir "$tiny/bin" "$tiny/proc" "$tiny/sys" "$tiny/dev"
cp "$root/bin/busybox" "$tiny/bin/"
cp "$recipe/web01.init" "$tiny/init"
chmod 755 "$tiny/init"
(cd "$tiny" && find . | cpio --quiet -o -H newc | gzip -9) > "$images/web01.initrd"
rm -rf "$tiny"

chroot "$root" systemctl -q enable systemd-networkd ssh libvirtd libvirt-guests chrony multipathd irqbalance lab-dns
chroot "$root" systemctl -q disable ksm ksmtuned numad
chroot "$root" systemctl -q mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer logrotate.timer
chroot "$root" update-initramfs -u -k all
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
