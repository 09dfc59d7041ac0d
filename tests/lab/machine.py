"""Virtual machines from the image: booted, frozen into a template, cloned from it in seconds."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import emulator, tsc
from tests.lab.files import PID_FILE, digest, made
from tests.lab.image import Image
from tests.lab.qmp import Qmp, QmpError

MEMORY_MIB = 2560

#: Addresses that differ from process to process make QEMU translate all code anew: norandmaps halves what starting one costs.
#: Two pages more than web01 needs on node 0, some on node 1: nothing on the host may be short, or idle.
_CMDLINE = (
    "root=/dev/vda rw rootfstype=ext4 console=ttyS0 quiet mitigations=off norandmaps tsc=reliable no_timer_check"
    " hugepagesz=2M hugepages=0:52,1:8"
)

#: Emulation offers AMD's SVM with nested paging: kvm_amd loads and guests run inside.
CPU = "EPYC,+svm,-monitor"

_running: set[Machine] = set()


def stop_all() -> None:
    """End all machines of this process."""
    for machine in list(_running):
        machine.stop()


class UnreachableError(RuntimeError):
    """A machine did not answer in time, or a command on it failed."""


class SilentError(UnreachableError):
    """A machine that nobody had broken fell silent or was hurt: emulation sometimes loses a processor. Another copy may do."""


@dataclass(eq=False)
class Machine:
    """A virtual machine with a directory, a disk, a control socket and a forwarded ssh port of its own."""

    image: Image
    place: Path
    cpu: str = CPU
    memory: Path | None = None
    name: str = "kvm01"
    process: subprocess.Popen[bytes] = field(init=False)
    qmp: Qmp = field(init=False)

    def start(self, disk: Path, lun: Path, *, incoming: bool = False) -> None:
        """Start QEMU on overlays over *disk* and *lun*. *incoming*: it waits for the frozen state of a template."""
        for name, backing in (("disk", disk), ("lun", lun)):
            overlay = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                backing,
                self.place / f"{name}.qcow2",
            ]
            subprocess.run(overlay, check=True)
        with (self.place / "qemu.log").open("wb") as log:
            # QEMU dies with us even when we are killed.
            command = ["setpriv", "--pdeathsig", "KILL", *emulator.chosen().words, *self._arguments(incoming)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _running.add(self)
        end = time.monotonic() + 60
        while True:
            try:
                self.qmp = Qmp(self.place / "qmp")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise UnreachableError(f"QEMU did not start: {(self.place / 'qemu.log').read_text()}") from None
                time.sleep(0.02)
        port = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", self.qmp.monitor("info usernet"))
        if not port:
            raise UnreachableError("QEMU forwards no port")
        self._write_ssh_config(int(port[1]))

    def _arguments(self, incoming: bool) -> list[str]:
        half = MEMORY_MIB // 2
        image, place = self.image, self.place
        options = [
            "-nodefaults -no-user-config -display none -machine q35 -accel tcg,thread=multi,tb-size=512",
            f"-cpu {self.cpu} -m {MEMORY_MIB} -smp 4,sockets=2,cores=2,threads=1",
            "-uuid 7b0f5c1e-0000-4000-8000-000000000001",
            *(
                f"-object memory-backend-file,id=m{node},size={half}M,mem-path={self.memory or place / 'memory'}.{node}"
                f",share={'off' if incoming else 'on'}"
                for node in (0, 1)
            ),
            "-numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,cpus=2-3,memdev=m1 -numa dist,src=0,dst=1,val=20",
            f"-kernel {image.kernel} -initrd {image.initrd}",
            f"-pidfile {place / PID_FILE} -serial file:{place}/console.log -qmp unix:{place}/qmp,server=on,wait=off",
            f"-drive file={place}/disk.qcow2,if=none,id=root,format=qcow2,cache=unsafe,discard=unmap",
            "-device virtio-blk-pci,drive=root",
            # For guests: the same image again.
            f"-drive file={image.disk},if=none,id=image,format=qcow2,readonly=on -device virtio-blk-pci,drive=image",
            "-device virtio-rng-pci",
            "-netdev user,id=n0,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-pci,netdev=n0,mac=52:54:00:00:01:01",
            "-netdev hubport,id=n1,hubid=1 -device e1000e,netdev=n1,mac=52:54:00:00:01:02",
            # One LUN, two paths.
            f"-blockdev driver=file,filename={place}/lun.qcow2,node-name=lunfile,cache.no-flush=on",
            "-blockdev driver=qcow2,file=lunfile,node-name=lun",
            *(
                f"-device virtio-scsi-pci,id=scsi{path} -device scsi-hd,bus=scsi{path}.0,drive=lun,id=path{path}"
                ",serial=LABLUN0001,wwn=0x5000c50015ea71ac,share-rw=on"
                for path in (0, 1)
            ),
        ]
        # 250 ticks a second, as Debian's kernels have it.
        clock = f" tsc_early_khz={tsc.khz()} lpj={tsc.khz() * 4}"
        return [*" ".join(options).split(), "-append", _CMDLINE + clock, *(["-incoming", "defer"] if incoming else [])]

    def _write_ssh_config(self, port: int) -> None:
        kind, key = self.image.host_key.read_text().split()[:2]
        (self.place / "known_hosts").write_text(f"kvm01,guest01 {kind} {key}\n")
        self.ssh_config.write_text(
            f"Host {self.name}\n HostName 127.0.0.1\n Port {port}\n HostKeyAlias kvm01\n"
            " Host guest01\n HostName 192.168.77.21\n HostKeyAlias guest01\n"
            f" ProxyCommand ssh -F {self.ssh_config} -W %h:%p {self.name}\n"
            f"Host {self.name} guest01\n User root\n IdentityFile {self.image.key}\n IdentitiesOnly yes\n BatchMode yes\n"
            f" LogLevel ERROR\n UserKnownHostsFile {self.place}/known_hosts\n StrictHostKeyChecking yes\n"
        )

    @property
    def ssh_config(self) -> Path:
        """The ssh configuration that reaches this machine by its name, and its guest as ``guest01``."""
        return self.place / "ssh_config"

    def run(self, script: str, *, timeout_s: float = 60, host: str = "") -> str:
        """Run *script* by sh as root and return what it printed. Raises :class:`UnreachableError` when it fails."""
        shared = f"-o ControlMaster=auto -o ControlPath={self.place}/c-%r-%n -o ControlPersist=30 -o ConnectTimeout=5"
        command = ["ssh", "-F", self.ssh_config, *shared.split(), host or self.name, f"set -e\n{script}"]
        try:
            # The connection that is kept for later commands must not hold our pipes.
            with tempfile.TemporaryFile() as errors:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, timeout=timeout_s)
                errors.seek(0)
                said = errors.read().decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise SilentError(f"no answer within {timeout_s:.0f} s: {script}") from None
        if done.returncode == 255:
            raise SilentError(f"ssh: {said[-1000:]}")
        if done.returncode:
            raise UnreachableError(f"exit code {done.returncode}: {script}: {said[-1000:]}")
        return done.stdout.decode(errors="replace")

    def wait_for_ssh(self, timeout_s: float, *, host: str = "") -> None:
        """Wait until a login works."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                self.run("true", timeout_s=20, host=host)
                return
            except UnreachableError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def console(self) -> str:
        """Return what the kernel and the services wrote on the serial console."""
        return (self.place / "console.log").read_text(errors="replace")

    def state(self) -> str:
        """Return what can be seen from outside of a machine that does not answer, and what it says itself when it does again."""
        told = []
        try:
            told.append(f"QEMU says {self.qmp('query-status')['status']}")
            for _ in range(2):  # where each processor is, and whether it moves
                told.append(" ".join(re.findall(r"RIP=\w+|HLT=\d", self.qmp.monitor("info registers -a"))))
                time.sleep(1)
        except (QmpError, OSError) as exc:
            told.append(f"QEMU does not answer ({exc}), exit code {self.process.poll()}")
        try:
            told.append(self.run("uptime; dmesg | tail -20", timeout_s=60))
        except UnreachableError as exc:
            told.append(f"{exc}\n{self.console()[-2000:]}")
        return "\n".join(told)

    def stop(self) -> None:
        """End QEMU."""
        _running.discard(self)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        with contextlib.suppress(AttributeError):
            self.qmp.close()


@dataclass(frozen=True)
class Template:
    """A machine that was booted, prepared and frozen."""

    image: Image
    place: Path
    cpu: str

    def clone(self, place: Path, name: str = "kvm01") -> Machine:
        """Return a running copy with its files in *place*; its memory is a private view of the template's."""
        place.mkdir()
        machine = Machine(self.image, place, self.cpu, self.place / "memory", name)
        machine.start(self.place / "disk.qcow2", self.place / "lun.qcow2", incoming=True)
        try:
            machine.qmp.ignore_shared()
            machine.qmp("migrate-incoming", uri=f"exec:cat {shlex.quote(str(self.place / 'state'))}")
            machine.qmp.wait("query-status", {"paused", "postmigrate", "prelaunch"})
            machine.qmp("cont")
            machine.wait_for_ssh(60)
        except BaseException:
            machine.stop()
            raise
        return machine


def template(image: Image, setup: str, *, cpu: str = CPU, disk: Path | None = None, timeout_s: float = 600) -> Template:
    """Return the template of a machine on which *setup* was run after it had booted; made when it is not there.

    It boots from a copy of *disk*, by default the image's.
    """
    # A frozen machine goes on counting by the frequency of the processor on which it was booted.
    machine_source = Path(__file__).read_bytes() + f"{tsc.khz() / 1e5:.0f}".encode()
    others = (emulator.chosen().version, setup, cpu, str(disk))
    place = image.place.with_name(f"template-{digest(machine_source, *(text.encode() for text in others))}")

    def make(partial: Path) -> None:
        machine = Machine(image, partial, cpu)
        machine.start(disk or image.disk, image.lun)
        try:
            machine.wait_for_ssh(timeout_s)
            machine.run(setup, timeout_s=timeout_s)
            _freeze(machine)
        except BaseException as exc:
            exc.add_note(f"{(partial / 'qemu.log').read_text()}\n{machine.console()[-2000:]}")
            raise
        finally:
            machine.stop()

    return Template(image, made(place, make), cpu)


def _freeze(machine: Machine) -> None:
    """Save the state of *machine*, whose memory is in files already."""
    machine.run("sync")
    subprocess.run(
        ["ssh", "-F", machine.ssh_config, "-o", f"ControlPath={machine.place}/c-%r-%n", "-O", "exit", machine.name],
        capture_output=True,
    )
    machine.qmp.ignore_shared()
    machine.qmp("stop")
    machine.qmp("migrate", uri=f"exec:cat > {shlex.quote(str(machine.place / 'state'))}")
    machine.qmp.wait("query-migrate", {"completed"})
    with contextlib.suppress(RuntimeError):
        machine.qmp("quit")
    machine.process.wait(60)
