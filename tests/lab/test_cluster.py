"""Two hosts cloned from one image: what clones forget to change, and what is well when they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import judge
from tests.lab.machine import Machine

IDENTITY = """
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
echo InitiatorName=iqn.1993-08.org.debian:01:kvm02 > /etc/iscsi/initiatorname.iscsi
rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
echo 'host_uuid = "8b0f5c1e-0000-4000-8000-000000000002"' >> /etc/libvirt/libvirtd.conf
hostname kvm02.lab.test
systemctl restart ssh libvirtd
"""


@pytest.fixture
def pair(clone: Callable[..., Machine]) -> tuple[Machine, Machine]:
    """Two copies of kvm01."""
    return clone(), clone(name="kvm02")


def of_cluster(pair: tuple[Machine, Machine], place: Path) -> dict[str, str]:
    """Judge both as one cluster and return the cluster's outcomes."""
    config = place / "ssh_config"
    config.write_text("".join(f"Include {machine.ssh_config}\n" for machine in pair))
    hosts = {machine.name: {"cluster": "lab"} for machine in pair}
    options = ("--kvmcheck-profile=production",)

    def state() -> str:
        return "\n".join(f"{machine.name}: {machine.state()}" for machine in pair)

    run = judge.kvmcheck(place / "run", config, {"hosts": hosts}, *options, state=state)
    return {check: judge.describe(result) for (check, subject), result in run.results.items() if subject == "cluster:lab"}


def test_clones(pair: tuple[Machine, Machine], tmp_path: Path) -> None:
    """Two copies of one image, as they are; and then with identities of their own, but for the UUID by the firmware."""
    found = of_cluster(pair, tmp_path)
    assert judge.fits(found["KVM-CLU-002"], "pass")
    for identity in ("machine-id", "iSCSI", "SSH host key"):
        assert judge.fits(found["KVM-CLU-009"], f"fail: {identity}")

    pair[1].run(IDENTITY)
    kind, key = pair[1].run("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
    (pair[1].place / "known_hosts").write_text(f"kvm01 {kind} {key}\n")
    found = of_cluster(pair, tmp_path)
    assert judge.fits(found["KVM-CLU-002"], "pass")
    assert judge.fits(found["KVM-CLU-009"], "warn")
