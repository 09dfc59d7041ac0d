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


def _effective(files: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts that count, in the order of their names."""
    chosen: dict[str, str] = {}
    for directory in _ORDER:
        for path in sorted(files):
            if path.startswith(directory):
                chosen.setdefault(path.rpartition("/")[2], path)
    for name in sorted(chosen):
        yield files[chosen[name]]


def _lines(text: str) -> Iterator[list[str]]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        words = line.split()
        if words and not words[0].startswith(("#", ";")):
            yield words


def parse_modprobe(files: Mapping[str, str]) -> Modprobe:
    """Return what the files of modprobe.d say together. Raises :class:`ParseError` for a line that is no command."""
    options: dict[tuple[str, str], tuple[str, ...]] = {}
    blacklisted, disabled = set(), set()
    for text in _effective(files):
        for command, *words in _lines(text):
            names = [words[0].replace("-", "_")] if words else []
            if command == "options" and words:
                for word in words[1:]:
                    name, _, value = word.partition("=")
                    key = (names[0], name)
                    options[key] = (*options.get(key, ()), value)
            elif command == "blacklist":
                blacklisted |= set(names)
            elif command == "install":
                if len(words) > 1 and words[1] in ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false"):
                    disabled |= set(names)
            elif command not in ("alias", "softdep", "remove", "weakdep", "include", "config"):
                raise ParseError(f"not a line of modprobe.d: {' '.join([command, *words])[:80]!r}")
    return Modprobe(options, frozenset(blacklisted), frozenset(disabled))


def parse_modules_load(files: Mapping[str, str]) -> frozenset[str]:
    """Return the modules that are loaded at boot. Raises :class:`ParseError` for a line that is no name."""
    found = set()
    for text in _effective(files):
        for words in _lines(text):
            if not re.fullmatch(r"[\w-]+", words[0], re.ASCII):
                raise ParseError(f"not the name of a module: {words[0][:60]!r}")
            found.add(words[0].replace("-", "_"))
    return frozenset(found)
