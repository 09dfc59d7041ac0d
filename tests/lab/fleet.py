"""A fleet of ssh targets on this machine: sshd in network namespaces, each with an address and a host name of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self


def _free_network() -> str:
    """Return a network among the addresses meant for tests (RFC 2544), which are nobody's own; not that of another run."""
    taken = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout
    return next(network for network in (f"198.18.{number}" for number in range(77, 256)) if f" {network}." not in taken)


def why_not() -> str | None:
    """Return why this machine cannot make network namespaces, or None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [tool for tool in ("ip", "ssh-keygen", "sshd", "unshare") if not shutil.which(tool, path=path)]:
        return f"not installed: {', '.join(missing)}"
    name = f"kvmlab-{os.getpid()}-try"
    try:
        _ip(f"netns add {name}")
        _ip(f"-n {name} link set lo up")
    except RuntimeError as exc:
        return f"no network namespace can be used here: {exc}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None


def _ip(line: str) -> None:
    done = subprocess.run(["ip", *line.split()], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {line}: {done.stderr.strip()}")


class Fleet:
    """sshd targets that are up from :meth:`host` until the end of the ``with`` block.

    *workshop* is the directory of the test run: bridge and namespaces bear its name, for the next run to find them if need be.
    """

    def __init__(self, workshop: Path) -> None:
        self.place = place = workshop / "fleet"
        place.mkdir()
        self._bridge = workshop.name
        self._network = _free_network()
        self.ssh_config = place / "ssh_config"
        self.names: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._namespaces: list[str] = []
        self._listening: list[socket.socket] = []
        for key in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
        (place / "authorized_keys").write_text((place / "key.pub").read_text())
        kind, key = (place / "host_key.pub").read_text().split()[:2]
        (place / "known_hosts").write_text(f"fleet {kind} {key}\n")
        self.ssh_config.write_text("")

    def __enter__(self) -> Self:
        _ip(f"link add {self._bridge} type bridge")
        _ip(f"addr add {self._network}.254/24 dev {self._bridge}")
        _ip(f"link set {self._bridge} up")
        return self

    def host(self, name: str, *, login: str = "", alive: str = "yes") -> None:
        """Start the host *name*. *login* wraps what the client asks for.

        *alive*: ``yes``; ``closed``: the machine is up, its sshd is not; ``absent``: no machine has the address;
        ``mute``: something accepts the connection and never says a word.
        """
        number = len(self.names) + 1
        self.names.append(name)
        address = f"{self._network}.{number}"
        with self.ssh_config.open("a") as config:
            config.write(
                f"Host {name}\n HostName {address}\n User root\n HostKeyAlias fleet\n IdentityFile {self.place}/key\n"
                f" IdentitiesOnly yes\n UserKnownHostsFile {self.place}/known_hosts\n"
            )
        if alive == "absent":
            return
        namespace, link = f"{self._bridge}-{number}", f"kl{self._bridge[-8:]}n{number}"
        _ip(f"netns add {namespace}")
        self._namespaces.append(namespace)
        _ip(f"link add {link} type veth peer name eth0 netns {namespace}")
        _ip(f"link set {link} master {self._bridge} up")
        _ip(f"-n {namespace} addr add {address}/24 dev eth0")
        _ip(f"-n {namespace} link set eth0 up")
        _ip(f"-n {namespace} link set lo up")
        if alive == "mute":
            listen = f"import socket, time; s = socket.create_server(('{address}', 22)); time.sleep(3600)"
            self._start(namespace, name, f'{sys.executable} -c "{listen}"')
        if alive == "yes":
            self._start(namespace, name, f"/usr/sbin/sshd -D -e -f {self._sshd_config(name, address, login)}")
            self._wait(address)

    def _sshd_config(self, name: str, address: str, login: str) -> Path:
        lines = [
            f"ListenAddress {address}",
            f"HostKey {self.place}/host_key",
            f"AuthorizedKeysFile {self.place}/authorized_keys",
            "PidFile none\nStrictModes no\nUsePAM no\nUseDNS no\nPasswordAuthentication no\nPermitRootLogin yes",
        ]
        if login:
            script = self.place / f"{name}.login"
            script.write_text(f"#!/bin/sh\n{login}\n")
            script.chmod(0o755)
            lines.append(f"ForceCommand {script}")
        config = self.place / f"{name}.sshd_config"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _start(self, namespace: str, name: str, command: str) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        script = f"hostname {name}; exec setpriv --pdeathsig KILL {command}"
        with (self.place / f"{name}.log").open("wb") as log:
            # --kill-child: with unshare, all that it started ends, the connections of the moment too.
            self._processes.append(
                subprocess.Popen(
                    [
                        *("setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", namespace),
                        *("unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", script),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def _wait(self, address: str) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((address, 22)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the sshd of {self.names[-1]} does not listen")

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10)
        for namespace in self._namespaces:
            with contextlib.suppress(RuntimeError):
                _ip(f"netns del {namespace}")
        with contextlib.suppress(RuntimeError):
            _ip(f"link del {self._bridge}")
        shutil.rmtree(self.place, ignore_errors=True)
