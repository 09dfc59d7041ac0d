#!/bin/sh
# Once, on the freshly booted kvm01: its guests. Those that run are left paused, as a virtual machine must not be frozen
# while it runs another; tests/lab/wake.sh lets them go on.
set -eu
cd /root/lab
images=/var/lib/libvirt/images
qemu-img create -q -f qcow2 $images/web01.qcow2 64M
qemu-img create -q -f qcow2 $images/legacy01.qcow2 64M
for name in web01 db01 legacy01; do
    virsh -q define $name.xml
done
virsh -q autostart web01
virsh -q autostart db01
virsh -q snapshot-create-as legacy01 before-upgrade
virsh -q start db01 --paused
virsh -q start web01
for second in $(seq 240); do
    if grep -qs 'web01 is up' /var/log/libvirt/qemu/web01-console.log; then break; fi
    sleep 1
done
grep -h 'web01 is up' /var/log/libvirt/qemu/web01-console.log
virsh -q suspend web01
