"""The pytest plugin: hooks and options. Without ``--kvmcheck`` it does nothing at all."""

from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import KvmcheckError

_PLUGIN = "kvmcheck-session"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and ini keys."""
    from pytest_kvmcheck.settings import add_options

    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; when checks are asked for, make the plan and let the session plugin act."""
    config.addinivalue_line("markers", "kvmcheck(id, severity, area): a check of pytest-kvmcheck, for -m and -k")
    from pytest_kvmcheck import settings

    try:
        if not settings.active(config):
            return
        from pytest_kvmcheck.session import Session

        config.pluginmanager.register(Session(config), _PLUGIN)
    except KvmcheckError as exc:
        raise pytest.UsageError(f"kvmcheck: {exc}") from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Forget the session plugin."""
    plugin = config.pluginmanager.get_plugin(_PLUGIN)
    if plugin is not None:
        config.pluginmanager.unregister(plugin)
        plugin.close()


@pytest.fixture
def _kvm_subject() -> None:
    """What a check is run on: while checks are asked for, each subject in turn takes the place of this nothing."""
