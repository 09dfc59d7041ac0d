"""Probes of where guests run: threads, interrupts, isolated CPUs."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe

PLACEMENT: tuple[Probe, ...] = ()
