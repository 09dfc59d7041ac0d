"""Probes of a guest, asked from inside."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe

GUEST: tuple[Probe, ...] = ()
