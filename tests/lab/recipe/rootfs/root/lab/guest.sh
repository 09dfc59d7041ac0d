#!/bin/sh
# Once: guest01, a guest that can be reached by ssh. It boots what kvm01 booted (/dev/vdb is the same image).
set -eu
log=/var/log/libvirt/qemu/guest01-console.log

# It comes up in a minute or two. An emulated processor sometimes loses a guest while it boots: then it is started anew.
came_up() {
    end=$(($(date +%s) + 180))
    while [ "$(date +%s)" -lt $end ]; do
        if ping -c1 -W1 192.168.77.21 >/dev/null && busybox nc -w 2 192.168.77.21 22 </dev/null | grep -q SSH; then
            # The agent answers when the guest is up.
            while [ "$(date +%s)" -lt $end ]; do
                if virsh -q qemu-agent-command guest01 '{"execute":"guest-ping"}' >/dev/null 2>&1; then
                    hurt=$(sh /root/lab/hurt.sh)
                    echo "$hurt" >&2
                    [ -z "$hurt" ]
                    return
                fi
                sleep 1
            done
        fi
        sleep 1
    done
    tail -n 20 $log >&2
    return 1
}

virsh -q define /root/lab/guest01.xml
for attempt in 1 2 3; do
    qemu-img create -q -f qcow2 -b /dev/vdb -F raw /var/lib/libvirt/images/guest01.qcow2
    : > $log
    virsh -q start guest01
    if came_up; then
        virsh -q suspend guest01
        exit 0
    fi
    echo "guest01 did not come up in attempt $attempt" >&2
    virsh -q destroy guest01
done
exit 1
