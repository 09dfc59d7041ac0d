r"""Options of kernel modules and modules barred or loaded at boot: ``modprobe.d`` and ``modules-load.d``.

Source: modprobe.d(5), modules-load.d(5). A file hides one of the same name in a later directory. ``-`` and ``_`` in names
are the same. Options of all files add up.

>>> conf = parse_modprobe({"/etc/modprobe.d/kvm.conf": "options kvm-intel nested=1 \\\n ept=1\n# options kvm x=1\n",
...                        "/usr/lib/modprobe.d/kvm.conf": "options kvm_intel nested=0\n",
...                        "/usr/lib/modprobe.d/z.conf": "blacklist floppy\ninstall usb-storage /bin/true\n"})
>>> conf.option("kvm_intel", "nested"), conf.blacklisted, conf.disabled
('1', frozenset({'floppy'}), frozenset({'usb_storage'}))
>>> sorted(parse_modules_load({"/etc/modules": "# none\nptp_kvm\n", "/usr/lib/modules-load.d/a.conf": "kvm-amd\n"}))
['kvm_amd', 'ptp_kvm']
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

_ORDER = ("/etc/", "/run/", "/usr/local/lib/", "/usr/lib/", "/lib/")


@dataclass(frozen=True)
class Modprobe:
    """What modprobe is told. ``options`` maps (module, option) to the values in the order in which they are applied."""

    options: Mapping[tuple[str, str], tuple[str, ...]]
    blacklisted: frozenset[str]
    disabled: frozenset[str]

    def option(self, module: str, name: str) -> str | None:
        """Return the value that wins at the next load of *module*, None when no file sets it."""
        values = self.options.get((module.replace("-", "_"), name))
        return values[-1] if values else None


def _in_order(files: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield the texts in the order of their names, and whether each counts or is hidden by one before it."""
    seen: set[str] = set()
    ranked = sorted(
        files, key=lambda path: next((rank for rank, place in enumerate(_ORDER) if path.startswith(place)), len(_ORDER))
    )
    for path in sorted(ranked, key=lambda path: path.rpartition("/")[2]):
        name = path.rpartition("/")[2]
        yield files[path], name not in seen
        seen.add(name)


def _lines(text: str) -> Iterator[list[str]]:
    if "\0" in text:
        raise ParseError("not a text file")
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        words = line.split()
        if words and not words[0].startswith(("#", ";")):
            yield words


_BARRED = ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false")
_OTHERS = ("alias", "softdep", "remove", "weakdep", "include", "config")


@empty_is_an_answer("no module has options")
def parse_modprobe(files: Mapping[str, str]) -> Modprobe:
    """Return what the files of modprobe.d say together. Raises :class:`ParseError` for a line that is no command."""
    options: dict[tuple[str, str], tuple[str, ...]] = {}
    blacklisted, disabled = set(), set()
    for text, counts in _in_order(files):
        for command, *words in _lines(text):
            if command not in ("options", "blacklist", "install", *_OTHERS) or not words:
                raise ParseError(f"not a line of modprobe.d: {' '.join([command, *words])[:80]!r}")
            module = words[0].replace("-", "_")
            if not counts:
                continue
            if command == "options":
                for word in words[1:]:
                    name, _, value = word.partition("=")
                    options[module, name] = (*options.get((module, name), ()), value)
            elif command == "blacklist":
                blacklisted.add(module)
            elif command == "install" and words[1:2] and words[1] in _BARRED:
                disabled.add(module)
    return Modprobe(options, frozenset(blacklisted), frozenset(disabled))


@empty_is_an_answer("no module is named")
@takes_any_line("any word may be the name of a module")
def parse_modules_load(files: Mapping[str, str]) -> frozenset[str]:
    """Return the modules that are loaded at boot. Raises :class:`ParseError` for a line that is no name."""
    found = set()
    for text, counts in _in_order(files):
        for name, *options in _lines(text):
            if not re.fullmatch(r"[\w-]+", name, re.ASCII) or not all("=" in option for option in options):
                raise ParseError(f"not the name of a module: {' '.join([name, *options])[:60]!r}")
            if counts:
                found.add(name.replace("-", "_"))
    return frozenset(found)
