"""Everything that is known of a check, as text and as Markdown: from its docstring, its registration and the profiles."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pytest_kvmcheck.probes import PROBES, Root
from pytest_kvmcheck.profiles import Level, Profile
from pytest_kvmcheck.registry import HEADINGS, Check


def first_lines(script: str, count: int = 1) -> str:
    """Return the beginning of a probe's script; ``f`` and ``g`` are the readers of files."""
    lines = [line for line in script.splitlines() if not line.startswith(("[ -r ", "[ -d ", "command -v "))] or script.splitlines()
    return lines[0] + (" ..." if len(lines) > count else "")


def reads(check: Check) -> list[tuple[str, str, str]]:
    """Return the probes that *check* may read: id, what is read, and whether root is needed."""
    rows = []
    for name in check.reads:
        probe = PROBES[name]
        what = " ".join(probe.paths) if probe.paths else first_lines(probe.script)
        root = {Root.NO: "", Root.MAY: "may need root", Root.MUST: "needs root"}[probe.root]
        rows.append((name, what, root))
    return rows


def in_profiles(check: Check, profiles: Iterable[Profile]) -> list[tuple[str, str, str, str]]:
    """Return the profiles that run *check*: name, severity, level, and the parameters."""
    rows = []
    for profile in profiles:
        setting = profile.setting(check.id)
        if setting:
            params = ", ".join(f"{name}={_value(value)}" for name, value in profile.params(check).items())
            level = "" if setting.level is Level.FAIL else str(setting.level)
            rows.append((profile.name, str(profile.severity(check)), level, "; ".join(filter(None, (params, setting.comment)))))
    return rows


def parameters(check: Check) -> list[tuple[str, str, str]]:
    """Return the parameters of *check*: name, default, and what a profile may set."""
    return [
        (name, "not given" if declared.default is None else _value(declared.default), str(declared))
        for name, declared in check.declared.items()
    ]


@functools.cache
def _tried() -> dict[str, dict[str, Any]]:
    tried: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).parents[1].joinpath("tried.yaml").read_text("utf-8"))
    return tried


def tried(check: Check) -> str:
    """Return where *check* was judged on a living host; empty for one that is not of ours.

    Other distributions are known by outputs of their tools, in the cases of each check.
    """
    told = _tried().get(check.id)
    if told is None:
        return ""
    if not told:
        return "Not held against a living host by the tables of the lab yet; outputs of tools in its cases."
    text = f"{told['on']}, a living host of the lab"
    text += f": {', '.join(told['outcomes'])} there." if told["outcomes"] else "."
    if told["faults"]:
        text += f" Noticed the faults {', '.join(told['faults'])}."
    return text + " Other distributions by outputs of their tools in its cases."


def _value(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def as_text(check: Check, profiles: Iterable[Profile]) -> str:
    """Return what ``kvmcheck explain`` prints."""
    lines = [
        f"{check.id}  {check.title}",
        f"severity {check.severity}, one verdict per {check.scope.replace('_', ' ')}, since {check.since}",
    ]
    for heading in HEADINGS:
        text = check.sections.get(heading)
        if text:
            lines += ["", heading, *(f"    {line}".rstrip() for line in text.splitlines())]
        if heading == "What it checks":
            lines += ["", "What is read"]
            lines += [f"    {name:<22} {what[:100]}{f'  ({root})' if root else ''}" for name, what, root in reads(check)]
            if check.declared:
                lines += ["", "Parameters"]
            for name, default, bounds in parameters(check):
                text = f"{name:<22} {default} ({bounds})"
                lines += textwrap.wrap(text, 110, initial_indent="    ", subsequent_indent=" " * 27)
            rows = in_profiles(check, profiles)
            lines += ["", "Profiles" + ("" if rows else ": none of the shipped ones runs it")]
            lines += [
                f"    {name:<22} {severity:<9}{f'{level} ' if level else ''}{params}".rstrip()
                for name, severity, level, params in rows
            ]
    if where := tried(check):
        lines += ["", "Tried on", *textwrap.wrap(where, 96, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines) + "\n"


def as_markdown(check: Check, profiles: Iterable[Profile]) -> str:
    """Return the page of *check* in the catalogue."""
    lines = [
        f"# {check.id}: {check.title}",
        "",
        f"Severity {check.severity}; one verdict per {check.scope.replace('_', ' ')}; since {check.since}.",
        "",
    ]
    for heading in HEADINGS:
        text = check.sections.get(heading)
        if not text:
            continue
        lines += [f"**{heading}**", ""]
        if heading == "How to fix":
            lines += ["```text", text, "```", ""]
        elif heading == "References":
            lines += [*(f"- <{line}>" for line in text.splitlines()), ""]
        else:
            lines += [text.replace("``", "`").replace("<", "&lt;"), ""]
        if heading == "What it checks":
            lines += ["| reads | what | root |", "|---|---|---|"]
            lines += [f"| `{name}` | `{what.replace('|', '¦')[:160]}` | {root} |" for name, what, root in reads(check)]
            if check.declared:
                lines += ["", "| parameter | default | may be |", "|---|---|---|"]
                lines += [f"| `{name}` | {_cell(default)} | {_cell(bounds)} |" for name, default, bounds in parameters(check)]
            lines += ["", "| profile | severity | level | parameters |", "|---|---|---|---|"]
            lines += [f"| {' | '.join(row)} |" for row in in_profiles(check, profiles)]
            lines += [""]
    if where := tried(check):
        lines += ["**Tried on**", "", where, ""]
    return "\n".join(lines)


def catalogue_pages(checks: Mapping[str, Check], profiles: list[Profile]) -> dict[str, str]:
    """Return the catalogue as Markdown pages: ``index.md``, and one page per check."""
    index = ["# Catalogue", "", f"{len(checks)} checks, generated from the registry.", ""]
    ordered = sorted(checks.values(), key=lambda check: (check.area, check.id))
    for area, found in itertools.groupby(ordered, key=lambda check: check.area):
        rows = list(found)
        about = (rows[0].function.__globals__.get("__doc__") or "").strip()
        index += [f"## {area}", "", about, "", "| check | good state | severity |", "|---|---|---|"]
        index += [f"| [{check.id}]({check.id}.md) | {check.title} | {check.severity} |" for check in rows]
        index.append("")
    pages = {f"{check.id}.md": as_markdown(check, profiles) for check in checks.values()}
    return {"index.md": "\n".join(index) + "\n", **pages}
