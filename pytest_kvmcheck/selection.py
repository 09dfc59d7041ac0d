"""What of the shipped and the user's own checks a command line asks for: files, options that choose, and shards."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

import pytest

from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.registry import Check

#: Options by which files or tests are left out without being deselected: attributes of pytest's options, and how they are written.
#: Those of pytest-shard and pytest-split, which tell nobody what they take out, are among them.
_PARTIAL = {
    "collectonly": "--collect-only",
    "setuponly": "--setup-only",
    "setupplan": "--setup-plan",
    "lf": "--last-failed",
    "stepwise": "--stepwise",
    "num_shards": "--num-shards",
    "splits": "--splits",
}

#: Options that choose what is run.
_CHOOSING = {
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
}

#: How the shipped checks are named to ``pytest --pyargs``.
_AS_PACKAGE = "pytest_kvmcheck.checks"


class Selection:
    """What was asked for. Without named files, the shipped checks are run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(shipped("checks"))]
        #: What was named, and whether all of it is to be run.
        self.named: list[tuple[Path, bool]] = []
        for arg in config.args:
            place, _, inside = arg.partition("::")
            path = shipped("checks") if place == _AS_PACKAGE else Path(config.invocation_params.dir, place).resolve()
            self.named.append((path, not inside))

    @property
    def own(self) -> list[Path]:
        """The files and directories that the user named besides the shipped checks."""
        return [path for path, _ in self.named if path.exists() and not path.is_relative_to(shipped("checks"))]

    @property
    def sharded(self) -> bool:
        """Whether this is one of several runs that share the work."""
        return bool({"--num-shards", "--splits"} & {*self.partial()})

    def left_out(self, check: Check) -> bool:
        """Whether the user left the file of *check* out: by naming others, by --ignore, or all of them by --collect-only."""
        option = self.config.option
        if self.partial():
            return True
        file = Path(check.origin.rpartition(":")[0]).resolve()
        if not any(whole and file.is_relative_to(path) for path, whole in self.named):
            return True
        here = self.config.invocation_params.dir
        return any(file.is_relative_to(Path(here, path).resolve()) for path in option.ignore or ()) or any(
            fnmatch.fnmatch(str(file), str(Path(here, glob))) for glob in option.ignore_glob or ()
        )

    def partial(self) -> list[str]:
        """Return which options of ``_PARTIAL`` are in force; one shard is no shard."""
        values = {shown: getattr(self.config.option, name, None) for name, shown in _PARTIAL.items()}
        return [shown for shown, value in values.items() if value is True or (isinstance(value, int) and value > 1)]

    def told(self, checks: Iterable[Check]) -> list[str]:
        """Return by which options a part of *checks* was selected."""
        told = self.partial()
        for name, shown in _CHOOSING.items():
            value = getattr(self.config.option, name, None)
            told += [f"{shown} {one}" for one in (value if isinstance(value, list) else [value]) if one not in (None, "", False)]
        if self.config.args_source is pytest.Config.ArgsSource.ARGS and any(map(self.left_out, checks)):
            told.append("what was named on the command line")
        return told
