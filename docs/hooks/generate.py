"""mkdocs hook: the pages that are generated from the code, so that nothing is written twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from pytest_kvmcheck import catalog, profiles
from pytest_kvmcheck.outcomes import TABLE
from pytest_kvmcheck.reports.explain import catalogue_pages
from pytest_kvmcheck.settings import NUMBERS, VALUES


def _outcomes() -> str:
    rows = "\n".join(
        f"| {outcome} | {look.meaning} | {look.produced_by} | {look.pytest} | {look.junit} |" for outcome, look in TABLE.items()
    )
    return (
        "# Outcomes\n\nAbsence is never compliance: what could not be read is unknown, and unknown is an error of the run.\n\n"
        f"| outcome | meaning | produced by | in pytest | in JUnit |\n|---|---|---|---|---|\n{rows}\n\n"
        "Exit codes are pytest's: 0 everything passes (or is not applicable, warned or waived), 1 something fails or is unknown, "
        "2 interrupted, 3 internal error, 4 a mistake in what was asked, 5 nothing was checked.\n"
    )


def _options() -> str:
    rows = "\n".join(
        f"| `--kvmcheck-{name} {metavar.replace('|', ' or ')}` | `KVMCHECK_{name.upper()}` | `kvmcheck_{name}` | {text} |"
        for name, metavar, text in VALUES
    )
    numbers = "\n".join(
        f"| | `KVMCHECK_{name.upper()}` | `kvmcheck_{name}` | {text}: {low} to {high} ({default}) |"
        for name, default, low, high, text in NUMBERS
    )
    return (
        "# Options\n\nAn option wins over the environment, and that over the ini file; the header of a run says where the profile "
        "came from.\n\n| option | environment | ini key | meaning |\n|---|---|---|---|\n"
        "| `--kvmcheck` | `KVMCHECK` | `kvmcheck` | run checks |\n"
        f"{rows}\n{numbers}\n\n"
        "Of testinfra: `--hosts`, `--ssh-config`, `--ssh-identity-file`, `--ssh-extra-args`, `--sudo`, `--ansible-inventory`.\n"
    )


def _decisions(directory: Path) -> str:
    rows = "\n".join(
        f"- [{path.read_text('utf-8').splitlines()[0].removeprefix('# ')}](decisions/{path.name})"
        for path in sorted(directory.glob("*.md"))
    )
    return f"# Decisions\n\nWhy things are as they are, where another way would have been as near.\n\n{rows}\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    checks = catalog.load()
    shipped = [profiles.load(name, checks) for name in profiles.shipped_profiles()]
    pages = {f"catalogue/{name}": text for name, text in catalogue_pages(checks, shipped).items()}
    pages |= {"outcomes.md": _outcomes(), "options.md": _options()}
    pages["decisions.md"] = _decisions(Path(config["docs_dir"]) / "decisions")
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files
