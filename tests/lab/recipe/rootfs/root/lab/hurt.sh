#!/bin/sh
# Tells the lines of guest01's console that speak of damage done by emulation; says nothing when there are none.
grep -E 'EXT4-fs error|BUG:|lockup|stall|Call Trace' /var/log/libvirt/qemu/guest01-console.log || [ $? = 1 ]
