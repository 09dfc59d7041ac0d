"""Probes of confinement, accounts, permissions and keys."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe

SECURITY: tuple[Probe, ...] = ()
