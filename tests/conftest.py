"""What is collected and in which environment: neither the lab, nor what the shell of whoever runs the tests happens to hold."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).parent / "lab"

#: What we, pytest, Python or a tool that the tests start would go by. The lab boots virtual machines, and goes by some of it.
FOREIGN = re.compile(
    r"KVMCHECK.*|PYTEST_(ADDOPTS|PLUGINS|DISABLE_PLUGIN_AUTOLOAD|THEME.*)|PYTHON(OPTIMIZE|WARNINGS|UTF8|IOENCODING|STARTUP)"
    r"|ANSIBLE_.*|LIBVIRT_.*|VIRSH_.*|LC_.*|LANG|LANGUAGE|TZ|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|PY_COLORS|CI|GREP_.*|GZIP"
    r"|POSIXLY_CORRECT|TAR_OPTIONS|LS_COLORS|XDG_(STATE|CONFIG)_HOME|SUDO_.*"
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave ``tests/lab`` out unless an argument names it or something in it."""
    if collection_path != LAB:
        return None
    named = [Path(config.invocation_params.dir, argument.split("::", 1)[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(LAB) for path in named) else True


@pytest.fixture(scope="session", autouse=True)
def environment_of_nobody(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment, umask and time zone that every test begins with, whoever runs it."""
    if any(item.path.is_relative_to(LAB) for item in request.session.items):
        yield
        return
    umask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if FOREIGN.fullmatch(name):
                patch.delenv(name)
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        time.tzset()
        yield
    time.tzset()
    os.umask(umask)
