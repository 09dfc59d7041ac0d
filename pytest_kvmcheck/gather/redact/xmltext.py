r"""Secrets in libvirt's XML: the values that a parser of ours reads are kept, all others become pseudonyms.

The text itself is kept as it was, tag by tag: only values change, so that it stays as well-formed as it was and compares line by
line. What is no whole XML document is taken out whole: nothing can be read from it anyway.

>>> from pytest_kvmcheck.gather.redact.pseudonym import Hide
>>> redact_xml("<domain type='kvm'><name>web</name><devices><graphics type='vnc' passwd='hunter2'/></devices></domain>",
...            "domain", Hide(b"key"))
"<domain type='kvm'><name>web</name><devices><graphics type='vnc' passwd='&lt;redacted:05d210d8&gt;'/></devices></domain>"
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.domain import TAGS_NAMESPACE
from pytest_kvmcheck.facts.xmltext import parse_xml
from pytest_kvmcheck.gather.redact.pseudonym import Hide
from pytest_kvmcheck.gather.redact.text import redact_text, redact_words

_LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"

#: By root element, what is kept, a line each: path below the root (``**``: and all below it), then attributes; ``@`` is all of
#: them, ``#`` the text. Below <backingStore>, <mirror> and <source> of a mirror stands what stands below a <disk>.
_KEPT = {
    "domain": f"""
        . type id
        name #
        uuid #
        memory # unit dumpCore
        currentMemory # unit
        maxMemory # unit slots
        memoryBacking/** # @
        memtune/** # @
        blkiotune/** # @
        vcpu # placement cpuset current
        vcpus/** # @
        iothreads #
        iothreadids/** # @
        defaultiothread/** # @
        cputune/** # @
        numatune/** # @
        resource/partition #
        metadata/{{{TAGS_NAMESPACE}}}tags #
        metadata/{{{_LIBOSINFO}}}libosinfo/{{{_LIBOSINFO}}}os id
        os firmware
        os/type # arch machine
        os/loader # readonly secure type stateless format
        os/nvram # template format type
        os/kernel #
        os/initrd #
        os/boot dev
        os/bootmenu enable timeout
        os/smbios mode
        os/firmware/** @
        features/** @
        cpu/** # @
        clock/** @
        on_poweroff #
        on_reboot #
        on_crash #
        on_lockfailure #
        pm/** @
        seclabel/** # @
        launchSecurity type
        sysinfo type
        sysinfo/system/entry name
        devices/emulator #
        devices/disk type device rawio sgio model snapshot
        devices/disk/source file dev volume dir name protocol pool mode index startupPolicy type namespace managed
        devices/disk/source/host name port transport socket
        devices/disk/source/auth/secret type uuid usage
        devices/disk/source/encryption format
        devices/disk/source/encryption/secret type uuid usage
        devices/disk/source/address @
        devices/disk/source/reservations managed enabled
        devices/disk/source/slices/** @
        devices/disk/auth/secret type uuid usage
        devices/disk/encryption format
        devices/disk/encryption/secret type uuid usage
        devices/disk/driver/** @
        devices/disk/format type
        devices/disk/iotune/** #
        devices/disk/target dev bus tray removable rotation_rate
        devices/disk/address @
        devices/disk/alias name
        devices/disk/boot order
        devices/disk/blockio @
        devices/disk/geometry @
        devices/disk/wwn #
        devices/disk/mirror @
        devices/controller/** @
        devices/interface type managed trustGuestRxFilters
        devices/interface/mac address type check
        devices/interface/source network bridge dev mode portgroup portid type
        devices/interface/source/address @
        devices/interface/target dev managed
        devices/interface/model type
        devices/interface/driver/** @
        devices/interface/mtu size
        devices/interface/filterref filter
        devices/interface/virtualport type
        devices/interface/teaming @
        devices/interface/link state
        devices/interface/vlan/** @
        devices/interface/bandwidth/** @
        devices/interface/port isolated
        devices/interface/alias name
        devices/interface/address @
        devices/interface/boot order
        devices/graphics type port tlsPort autoport listen websocket sharePolicy defaultMode passwdValidTo connected
        devices/graphics/listen type address network
        devices/graphics/channel name mode
        devices/graphics/image compression
        devices/serial type
        devices/serial/target/** @
        devices/serial/alias name
        devices/serial/address @
        devices/serial/protocol type
        devices/console type tty
        devices/console/target type port name state
        devices/console/alias name
        devices/console/address @
        devices/channel type
        devices/channel/source mode
        devices/channel/target type name state
        devices/channel/alias name
        devices/channel/address @
        devices/parallel type
        devices/hostdev type mode managed sgio rawio model display
        devices/hostdev/driver @
        devices/hostdev/source startupPolicy protocol
        devices/hostdev/source/address @
        devices/hostdev/teaming @
        devices/hostdev/alias name
        devices/hostdev/address @
        devices/hostdev/rom bar enabled
        devices/input type bus model
        devices/input/alias name
        devices/input/address @
        devices/watchdog model action
        devices/watchdog/alias name
        devices/watchdog/address @
        devices/tpm model
        devices/tpm/backend type version persistent_state
        devices/tpm/alias name
        devices/rng model
        devices/rng/rate @
        devices/rng/backend # model type
        devices/rng/driver @
        devices/rng/alias name
        devices/rng/address @
        devices/memballoon model autodeflate freePageReporting
        devices/memballoon/** @
        devices/video/** @
        devices/sound model
        devices/audio id type
        devices/redirdev bus type
        devices/redirdev/alias name
        devices/redirdev/address @
        devices/hub/** @
        devices/iommu/** @
        devices/panic/** @
        devices/vsock/** @
        devices/memory model access discard
        devices/memory/target/** # @
        devices/memory/alias name
        devices/memory/address @
        devices/filesystem type accessmode
        devices/filesystem/driver @
        devices/smartcard mode type
        """,
    "network": """
        . connections ipv6 trustGuestRxFilters
        name #
        uuid #
        forward mode dev managed
        forward/interface @
        forward/pf @
        forward/driver @
        forward/address @
        forward/nat/** @
        bridge name stp delay macTableManager zone
        mtu size
        mac address
        domain name localOnly
        vlan/** @
        virtualport type
        bandwidth/** @
        portgroup name default trustGuestRxFilters
        portgroup/virtualport type
        portgroup/vlan/** @
        ip address netmask prefix family localPtr
        ip/dhcp/range start end
        route @
        port isolated
        """,
    "pool": """
        . type
        name #
        uuid #
        capacity # unit
        allocation # unit
        available # unit
        source/host name port
        source/dir path
        source/device path
        source/adapter type name parent wwnn wwpn managed
        source/name #
        source/format type
        source/auth type
        source/auth/secret uuid usage
        target/path #
        target/permissions/** #
        """,
    "capabilities": "** # @",
    "domainCapabilities": "** # @",
}


def _rules(lines: str) -> dict[str, frozenset[str]]:
    return {path: frozenset(kept) for path, *kept in (line.split() for line in lines.splitlines() if line.strip())}


_RULES: Mapping[str, Mapping[str, frozenset[str]]] = {root: _rules(lines) for root, lines in _KEPT.items()}
_NOTHING: frozenset[str] = frozenset()

_TOKEN = re.compile(
    r"<!--(?P<comment>.*?)-->"
    r"|<!\[CDATA\[(?P<cdata>.*?)\]\]>"
    r"|<\?(?P<instruction>.*?)\?>"
    r"|</(?P<end>[^>]*)>"
    r"|<(?P<name>[^\s/>]+)(?P<attributes>[^>\"']*(?:(?:\"[^\"]*\"|'[^']*')[^>\"']*)*)>"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"""(?P<name>[^\s=]+)(?P<is>\s*=\s*)(?P<q>["'])(?P<value>.*?)(?P=q)""", re.DOTALL)

#: Elements below which the same stands as below the one that holds them.
_LAYERS = ("backingStore", "mirror")


def redact_xml(text: str, root: str, hide: Hide) -> str:
    """Return *text* with all values replaced but those that are kept of a *root*; what is no such document, whole."""
    begins = _BEGINS.search(text)
    if not begins:
        return redact_text(text, hide)
    # What virsh complains of stands before and after.
    start, end = begins.start(1), text.rfind(">") + 1
    if "<" in text[end:] or end < start:
        end = len(text)
    before, body, after = text[:start], text[start:end], text[end:]
    try:
        parse_xml(body, root)
    except ParseError:
        shown = hide(body.strip())
    else:
        shown = _Redactor(root, hide).run(body)
    return redact_text(before, hide) + shown + redact_text(after, hide)


#: Where a document begins: at a tag at the beginning of a line.
_BEGINS = re.compile(r"^\s*(<(?!redacted:[0-9a-f]{8}>)[A-Za-z_!?])", re.MULTILINE)


class _Redactor:
    """Walks through one well-formed document. One of its own for each: paths and namespaces are those of the open elements."""

    def __init__(self, root: str, hide: Hide) -> None:
        self.root, self.rules = root, _RULES[root]
        self.hide = hide
        self.paths: list[str] = []
        self.spaces: list[Mapping[str, str]] = [{}]
        self.known: dict[str, frozenset[str]] = {}

    def run(self, text: str) -> str:
        return _TOKEN.sub(self._token, text)

    def _kept(self, path: str) -> frozenset[str]:
        found = self.known.get(path)
        if found is None:
            found = self.rules.get(path) or _NOTHING
            place = path
            while not found:
                found = self.rules.get(f"{place}/**" if place != "." else "**") or _NOTHING
                if not place or place == ".":
                    break
                place = place.rpartition("/")[0] or "."
            self.known[path] = found
        return found

    def _token(self, match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind == "attributes":
            return self._element(match)
        if kind == "text":
            return self._text(match[0])
        if kind == "end":
            self.paths.pop()
            self.spaces.pop()
            return match[0]
        if kind == "comment":
            return f"<!--{self._shown(match['comment'])}-->"
        if kind == "cdata":
            kept = "#" in self._kept(self.paths[-1] if self.paths else "")
            return f"<![CDATA[{redact_words(match['cdata'], self.hide) if kept else self._shown(match['cdata'])}]]>"
        return match[0] if match["instruction"].startswith("xml ") else ""

    def _shown(self, value: str) -> str:
        stripped = value.strip()
        return value.replace(stripped, self.hide(stripped), 1) if stripped else value

    def _text(self, text: str) -> str:
        stripped = text.strip()
        if not stripped or not self.paths:
            return text
        path = self.paths[-1]
        return text.replace(stripped, self.hide.once(f"{self.root} {path}#", stripped, lambda found: self._said(path, found)), 1)

    def _said(self, path: str, text: str) -> str:
        value = html.unescape(text)
        told = redact_words(value, self.hide) if "#" in self._kept(path) else self.hide(value)
        return text if told == value else escape(told)

    def _element(self, match: re.Match[str]) -> str:
        name, attributes = match["name"], match["attributes"]
        spaces = self.spaces[-1]
        if "xmlns" in attributes:
            spaces = dict(spaces)
            for item in _ATTRIBUTE.finditer(attributes):
                if item["name"] == "xmlns" or item["name"].startswith("xmlns:"):
                    spaces[item["name"].partition(":")[2]] = html.unescape(item["value"])
        prefix, colon, local = name.rpartition(":")
        space = spaces.get(prefix, "") if colon else spaces.get("", "")
        path = self._path(f"{{{space}}}{local}" if space else local)
        shown = attributes
        if "=" in attributes:
            shown = self.hide.once(f"{self.root} {path}", attributes, lambda text: self._attributes(path, text))
        if not attributes.endswith("/"):
            self.paths.append(path)
            self.spaces.append(spaces)
        return f"<{name}{shown}>"

    def _attributes(self, path: str, text: str) -> str:
        kept = self._kept(path)

        def attribute(item: re.Match[str]) -> str:
            name, quote = item["name"], item["q"]
            value = html.unescape(item["value"])
            known = "@" in kept or name in kept or name == "xmlns" or name.startswith("xmlns:")
            told = redact_words(value, self.hide) if known else self.hide(value)
            if told == value:
                return item[0]
            return f"{name}{item['is']}{quote}{escape(told, {quote: '&quot;' if quote == chr(34) else '&apos;'})}{quote}"

        return _ATTRIBUTE.sub(attribute, text)

    def _path(self, tag: str) -> str:
        """Return the path of a new element within the open ones."""
        if not self.paths:
            return "."
        above = self.paths[-1]
        if above == ".":
            return tag
        last = above.rpartition("/")[2]
        if last in _LAYERS and above.startswith("devices/disk/"):
            above = "devices/disk"
        return f"{above}/{tag}"
