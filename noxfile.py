"""Sessions for developers: ``nox`` runs lint, types, tests and docs; package, lab and benchmarks are asked for by name."""

from __future__ import annotations

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
def benchmarks(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    for name in ("startup", "replay", "gathering"):
        session.run("python", "-m", f"benchmarks.{name}")
