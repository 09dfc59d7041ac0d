r"""What a machine runs in: ``systemd-detect-virt --vm``, and after ``container`` what ``--container`` says.

Source: systemd-detect-virt(1). Only its own words are an answer; a word of a later systemd is not known here, and said so.

>>> parse_detect_virt("kvm\n"), parse_detect_virt("none\ncontainer docker\n")
(('kvm', ''), ('none', 'docker'))
"""

from __future__ import annotations

from pytest_kvmcheck.errors import ParseError

_MACHINES = {
    *("none", "qemu", "kvm", "amazon", "zvm", "vmware", "microsoft", "oracle", "powervm", "xen", "bochs", "uml", "parallels"),
    *("bhyve", "qnx", "acrn", "apple", "sre", "google", "nutanix", "vm-other"),
}
_CONTAINERS = {
    *("openvz", "lxc", "lxc-libvirt", "systemd-nspawn", "docker", "podman", "rkt", "wsl", "proot", "pouch", "container-other"),
}


def parse_detect_virt(text: str) -> tuple[str, str]:
    """Return virtual machine (``none``: it is none) and container (empty: it is none). Raises :class:`ParseError`."""
    machine, _, rest = text.strip().partition("\n")
    mark, _, container = rest.partition(" ")
    if machine in _MACHINES and (not rest or (mark == "container" and container in _CONTAINERS)):
        return machine, container
    raise ParseError(f"not the answer of systemd-detect-virt: {text.strip()[:40]!r}")
