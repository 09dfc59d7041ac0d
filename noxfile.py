"""Sessions for developers: ``nox`` runs lint, types, tests and docs; package, lab and benchmarks are asked for by name."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lab(session: nox.Session) -> None:
    """A real KVM host, emulated: needs root and the Debian packages of tests/lab/packages.txt."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests/lab", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())


@nox.session
def package(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", "tests/test_wheel.py", *session.posargs)


@nox.session
def pin(session: nox.Session) -> None:
    """Make requirements/tested.txt anew: the newest versions, with the hashes of all their files."""
    session.install("pip-tools>=7")
    quiet = ("--no-emit-find-links", "--no-emit-index-url", "--no-emit-trusted-host", "--strip-extras", "--upgrade")
    extras = ("--extra=xdist", "--extra=libvirt")
    session.run(
        "pip-compile", "-q", "--generate-hashes", *quiet, *extras, "--output-file=requirements/tested.txt", "pyproject.toml"
    )


@nox.session
def locked(session: nox.Session) -> None:
    """The tests with the very versions that are pinned."""
    session.install("--require-hashes", "-r", "requirements/tested.txt")
    session.install("--no-deps", "-e", ".")
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["test"][1:])
    session.run("pytest", *session.posargs)


@nox.session
def sbom(session: nox.Session) -> None:
    """The bill of materials beside a release, as CycloneDX."""
    session.install("cyclonedx-bom>=7")
    Path("dist").mkdir(exist_ok=True)
    form = ("--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON", "-o", "dist/pytest-kvmcheck.cdx.json")
    session.run("cyclonedx-py", "requirements", *form, "requirements/tested.txt")


@nox.session
def benchmarks(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    for name in ("startup", "replay", "gathering", "domains"):
        session.run("python", "-m", f"benchmarks.{name}")
