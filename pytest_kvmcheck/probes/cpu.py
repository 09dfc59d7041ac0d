"""Probes of the CPU and of KVM."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, MAX_BYTES, Probe, Root, files, shell

_CPU = "/sys/devices/system/cpu"

#: A fixed command, so that sudo can be told to run it and nothing else. That an open file of PID 1 is told proves that all were
#: shown: root may be kept from them too.
_OPEN_FILES = (
    r"find /proc -maxdepth 3 \( -path '/proc/[!0-9]*' -o -path '/proc/[0-9]*/[!f]*' -o -name fdinfo \) -prune"
    r" -o \( -path '/proc/1/fd/[0-9]' -o -lname /dev/cpu_dma_latency \) -printf '%p = %l\n'"
)

CPU: tuple[Probe, ...] = (
    shell(
        "cpuinfo",
        "[ -r /proc/cpuinfo ] || exit 66\n"
        "grep -E '^(vendor_id|flags|features|Features|machine|platform|cpu|model name|CPU implementer|isa)[[:space:]]*:'"
        " /proc/cpuinfo | sort -u",
        "CPU vendor and flags (each different line once)",
        paths=("/proc/cpuinfo",),
        one_file=True,
        roles=EVERYWHERE,
    ),
    shell(
        "kvm_modules",
        "[ -d /sys/module ] || exit 66\nfor d in /sys/module/kvm*; do [ -d $d ] && echo ${d##*/}; done; exit 0",
        "KVM modules, loaded or built in",
    ),
    files("kvm_params", "/sys/module/kvm*/parameters/*", "parameters of the KVM modules"),
    shell(
        "dev_kvm",
        "o=$(stat -c '%u %g %F %t:%T %a' /dev/kvm) || exit\n"
        "printf '%s\\n' \"$o\" | named 1 2 | while read -r u g o; do printf '%s\\n' \"$o $u $g\"; done",
        "the KVM device node (never opened)",
    ),
    shell(
        "qemu_user",
        "{ [ -r /etc/passwd ] && [ -r /etc/group ]; } || exit 66\n"
        'awk -F: \'FILENAME == "/etc/passwd" {'
        ' if ($1 == "libvirt-qemu" || ($1 == "qemu" && !u)) { u = $1; i = $3; g = $4 }; next }\n'
        '  !u { exit } $3 == g { n = $1 } index("," $4 ",", "," u ",") && $3 != g { m = m "," $3 "(" $1 ")" }\n'
        '  END { if (!u) exit 66; g = g (n == "" ? "" : "(" n ")"); print "uid=" i "(" u ") gid=" g " groups=" g m }\''
        " /etc/passwd /etc/group; r=$?\n"
        "[ $r = 0 ] || echo 'neither libvirt-qemu nor qemu is in /etc/passwd' >&2; exit $r",
        "the account QEMU runs as, and its groups",
    ),
    files("vulnerabilities", "/sys/devices/system/cpu/vulnerabilities/*", "CPU vulnerabilities and mitigations"),
    files(
        "cpu_lists", "/sys/devices/system/cpu/online /sys/devices/system/cpu/present", "CPUs online and present", roles=EVERYWHERE
    ),
    files("cpu_siblings", "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list", "threads that share a core"),
    files(
        "cpu_topology",
        "/sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id /sys/devices/system/cpu/cpu[0-9]*/topology/die_id"
        " /sys/devices/system/cpu/cpu[0-9]*/topology/core_id",
        "package, die and core of each CPU",
    ),
    files("smt", "/sys/devices/system/cpu/smt/control /sys/devices/system/cpu/smt/active", "whether SMT is on"),
    shell(
        "microcode",
        "[ -r /proc/cpuinfo ] || exit 66\n"
        "grep -E '^(processor|cpu family|model|stepping|microcode)[[:space:]]*:' /proc/cpuinfo; [ $? -le 1 ]",
        "family, model, stepping and microcode of each CPU",
    ),
    files(
        "cpufreq",
        f"{_CPU}/cpu[0-9]*/cpufreq/scaling_driver {_CPU}/cpu[0-9]*/cpufreq/scaling_governor"
        f" {_CPU}/cpu[0-9]*/cpufreq/energy_performance_preference"
        f" {_CPU}/intel_pstate/status {_CPU}/amd_pstate/status {_CPU}/intel_pstate/no_turbo {_CPU}/cpufreq/boost",
        "what governs the frequency of each CPU, and turbo",
    ),
    # One grep and no loop: a large host has thousands of these files, all of them open to everyone.
    shell(
        "cpuidle",
        f"[ -d {_CPU}/cpuidle ] || exit 66\n"
        f"grep -sH ^ {_CPU}/cpuidle/current_driver {_CPU}/cpu[0-9]*/cpuidle/state[0-9]*/name"
        f" {_CPU}/cpu[0-9]*/cpuidle/state[0-9]*/latency {_CPU}/cpu[0-9]*/cpuidle/state[0-9]*/disable"
        f" {_CPU}/cpu[0-9]*/power/pm_qos_resume_latency_us; exit 0",
        "idle states of each CPU, and limits to their latency",
        paths=(f"{_CPU}/cpuidle/current_driver",),
        max_bytes=8 * MAX_BYTES,
    ),
    # Whether somebody limits the latency of all CPUs. The limit itself could only be read by opening the device.
    shell(
        "dma_latency_holders",
        f'if [ "$SUDO" ]; then $SUDO {_OPEN_FILES}; else ls -ln /proc/[0-9]*/fd; fi 2>/dev/null'
        " | sed -n '/ \\/dev\\/cpu_dma_latency$/p; s#^/proc/1/fd/[0-9] .*#/proc/1/fd:#p;"
        r" \#^/proc/1/fd:$#,/^$/s#.* [0-9] -. .*#/proc/1/fd:#p'; exit 0",
        "processes that hold /dev/cpu_dma_latency open (the device is never opened)",
        root=Root.MUST,
        timeout_s=20,
        when=f"[ -d {_CPU}/cpu0/cpuidle/state1 ]",
        sudo=(_OPEN_FILES,),
    ),
    shell(
        "iommu_groups",
        "cd /sys/kernel/iommu_groups 2>/dev/null || { [ -d /sys/kernel ] || exit 66; echo none; exit 0; }\n"
        "echo groups\n"
        "for d in */devices/*; do [ -e $d ] && echo $d; done\n"
        "grep -sH ^ */type; exit 0",
        "IOMMU groups, their devices and how they translate",
        max_bytes=2 * MAX_BYTES,
    ),
    files(
        "vfio_params",
        "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts /sys/module/iommufd/parameters/allow_unsafe_interrupts"
        " /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        "whether devices may be assigned without protection",
    ),
    files(
        "edac",
        "/sys/devices/system/edac/mc/mc[0-9]*/ce_count /sys/devices/system/edac/mc/mc[0-9]*/ue_count",
        "memory errors that the memory controllers counted",
    ),
)
