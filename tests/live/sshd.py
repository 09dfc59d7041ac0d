"""A real sshd on loopback with throw-away keys. What a login finds there is chosen per host alias."""

from __future__ import annotations

import getpass
import re
import socket
import subprocess
import time
from pathlib import Path

SSHD = "/usr/sbin/sshd"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Farm:
    """Host aliases, each with an sshd of its own, and the ssh_config that reaches them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.config = place / "ssh_config"
        self.config.write_text("")
        self._running: list[subprocess.Popen[bytes]] = []
        self.key = self._keygen("client_key")
        self.stranger = self._keygen("stranger_key")
        self.host_key = self._keygen("host_key")
        self.other_host_key = self._keygen("other_host_key")

    def _keygen(self, name: str) -> Path:
        path = self.place / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        return path

    def host(
        self,
        name: str,
        login: str = "",
        *,
        key: Path | None = None,
        known: str = "right",
        listening: bool = True,
        env: dict[str, str] | None = None,
    ) -> str:
        """Start *name*. *login* wraps what the client asks for ($SSH_ORIGINAL_COMMAND); *known*: right, other or nothing."""
        port = free_port()
        known_hosts = self.place / f"{name}.known_hosts"
        host_key = {"right": self.host_key, "other": self.other_host_key}.get(known)
        text = host_key.with_suffix(".pub").read_text() if host_key else ""
        known_hosts.write_text(f"[127.0.0.1]:{port} {text}" if text else "")
        with self.config.open("a") as file:
            file.write(
                f"Host {name}\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {key or self.key}\n"
                f" IdentitiesOnly yes\n UserKnownHostsFile {known_hosts}\n GlobalKnownHostsFile /dev/null\n"
            )
        if listening:
            self._start(name, port, login, env or {})
        return f"ssh://{name}"

    def _start(self, name: str, port: int, login: str, env: dict[str, str]) -> None:
        authorized = self.place / f"{name}.authorized_keys"
        authorized.write_text(self.key.with_suffix(".pub").read_text())
        lines = [
            f"ListenAddress 127.0.0.1:{port}",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {authorized}",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "PermitRootLogin yes",
            "LogLevel VERBOSE",
            f"PidFile {self.place / name}.pid",
        ]
        if login:
            script = self.place / f"{name}.login"
            script.write_text(f"#!/bin/sh\n{login}\n")
            script.chmod(0o755)
            lines.append(f"ForceCommand {script}")
        lines += [f'SetEnv "{key}={value}"' for key, value in env.items()]
        config = self.place / f"{name}.sshd_config"
        config.write_text("\n".join(lines) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        with self.log(name).open("wb") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL)
        self._running.append(process)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"sshd for {name} does not listen: {self.log(name).read_text()}")

    def log(self, name: str) -> Path:
        """The server's own log."""
        return self.place / f"{name}.log"

    def connections(self, name: str) -> int:
        """How many connections the server accepted a key on."""
        return len(re.findall(r"Accepted publickey", self.log(name).read_text()))

    def commands(self, name: str) -> int:
        """How many commands (sessions) the server started."""
        return len(re.findall(r"Starting session: ", self.log(name).read_text()))

    def close(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(10)


def fakes(place: Path, **scripts: str) -> Path:
    """A directory of commands that answer as the scripts say, to be put first on a target's PATH."""
    place.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        path = place / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return place


#: A virsh without a daemon: the domains of the machine at hand come and go, and a busy libvirtd is slow.
NO_LIBVIRT = "echo 'error: failed to connect to the hypervisor' >&2; exit 1"


def with_path(directory: Path) -> str:
    """A login in which *directory* comes first on the PATH."""
    return f'PATH={directory}:$PATH exec sh -c "$SSH_ORIGINAL_COMMAND"'
