"""Probes of disk images, their file systems, pools and block devices."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe

DISKS: tuple[Probe, ...] = ()
