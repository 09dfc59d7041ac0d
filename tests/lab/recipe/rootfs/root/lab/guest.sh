#!/bin/sh
# Once: guest01, a guest that can be reached by ssh. It boots what kvm01 booted (/dev/vdb is the same image).
set -eu
qemu-img create -q -f qcow2 -b /dev/vdb -F raw /var/lib/libvirt/images/guest01.qcow2
virsh -q define /root/lab/guest01.xml
virsh -q start guest01
for second in $(seq 300); do
    if ping -c1 -W1 192.168.77.21 >/dev/null && busybox nc -w 2 192.168.77.21 22 </dev/null | grep -q SSH; then break; fi
    sleep 1
done
busybox nc -w 5 192.168.77.21 22 </dev/null | grep SSH
# The agent answers when the guest is up; then it may sleep.
for second in $(seq 120); do
    if virsh -q qemu-agent-command guest01 '{"execute":"guest-ping"}' >/dev/null 2>&1; then break; fi
    sleep 1
done
virsh -q qemu-agent-command guest01 '{"execute":"guest-ping"}'
virsh -q suspend guest01
