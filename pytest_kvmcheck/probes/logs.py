"""Probes of logs, auditing and their settings."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe

LOGS: tuple[Probe, ...] = ()
