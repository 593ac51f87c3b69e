"""One host of the fleet, as a test handles it: from outside, as root of this machine, never over SSH."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpusim.node import Node

from .access import new_key
from .describe import HostSpec, Machine
from .needs import FleetError

DEADLINE_S = 300  # a safety only
_LISTENING = ("0016", "0A")  # port 22 and the state LISTEN, as /proc/net/tcp has them
_FREEZE = """#!/bin/sh
# Stops every process of this host but the first and this one.
kill -s STOP -- -1
exec sleep infinity
"""


class Host:
    """A host that is up. `pid` is its init's as this machine counts; `node` is the hardware under it."""

    def __init__(self, spec: HostSpec, machine: Machine, node: Node, boot: Callable[[list[Machine]], dict[str, int]]):
        self.spec = spec
        self.machine = machine
        self.node = node
        self.pid = 0
        self._boot = boot
        self.wires: list[str] = ["true"]

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def address(self) -> str:
        return self.machine.links[0].address

    def path(self, inside: str) -> Path:
        """A file of the host, to read or to change; absolute links in it lead astray."""
        return Path(f"/proc/{self.pid}/root", inside.lstrip("/"))

    def run(self, command: Sequence[str], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as its root; with `check`, a failure is a FleetError with what it said."""
        defaults: dict[str, Any] = {"capture_output": True, "text": True, "timeout": DEADLINE_S}
        entered = ["nsenter", "--all", "--target", str(self.pid), "--", "env", "-i", f"PATH={_PATH}", *command]
        done: subprocess.CompletedProcess[str] = subprocess.run(entered, check=False, **(defaults | options))
        if check and done.returncode:
            raise FleetError(f"{self.name}: {' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done

    def processes(self) -> Iterator[int]:
        """Every process of the host."""
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "ns/pid").readlink() == own:
                        yield int(entry.name)

    def listens(self) -> bool:
        """Its sshd takes connections."""
        for table in ("tcp", "tcp6"):
            with suppress(OSError):
                for row in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = row.split()
                    if (fields[1].rpartition(":")[2], fields[3]) == _LISTENING:
                        return True
        return False

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            if time.monotonic() > deadline or not Path(f"/proc/{self.pid}").exists():
                raise FleetError(f"{self.name}: waited in vain until {what}\n{self._last_words()}")
            time.sleep(0.01)

    def settle(self) -> None:
        """Wait until systemd has started all that it starts."""
        self.run(["systemctl", "is-system-running", "--wait"], check=False)

    # --- the power button

    def die(self) -> None:
        """Lose power."""
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{self.pid}/ns/net").exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def power_on(self) -> None:
        """Boot again, with the disk as it was: a new boot id, and a driver that forgot its settings."""
        self.node.reboot()
        self.pid = self._boot([self.machine])[self.name]
        self.wait_until(self.listens, "its sshd listens")

    def reboot(self) -> None:
        self.die()
        self.power_on()

    # --- the wires

    def unplug(self) -> None:
        self._links("down")

    def plug(self) -> None:
        self._links("up")

    def _links(self, state: str) -> None:
        for link in self.machine.links:
            subprocess.run([*self.wires, "ip", "link", "set", link.device, state], check=True, timeout=DEADLINE_S)

    # --- what hangs

    def freeze(self) -> None:
        """Stop every process: the kernel still takes connections, nobody answers."""
        for _ in range(3):  # one may have started another meanwhile
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def freeze_after_login(self) -> None:
        """Let everything stop, sshd too, as soon as somebody has logged in and asks for a command."""
        self._at_login("sudo /usr/local/sbin/freeze")
        self._write("/usr/local/sbin/freeze", _FREEZE, 0o755)
        self._write("/etc/sudoers.d/freeze", "ALL ALL=(root) NOPASSWD: /usr/local/sbin/freeze\n", 0o440)

    def stick_after_login(self) -> None:
        """Let every command wait for ever, while sshd goes on answering."""
        self._at_login("exec sleep infinity")

    def _at_login(self, command: str) -> None:
        self._write("/etc/ssh/sshrc", f"{command} >/dev/null 2>&1\n", 0o644)

    # --- sshd

    def refuse(self) -> None:
        """No sshd: connections are refused."""
        if self.machine.systemd:
            self.run(["systemctl", "stop", "ssh"])
        for pid in self.processes():
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "sshd\n":
                    os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not self.listens(), "its sshd is gone")

    def accept(self) -> None:
        """Start sshd."""
        self.run(
            ["systemctl", "start", "ssh"] if self.machine.systemd else ["/usr/sbin/sshd", "-E", "/var/log/sshd.log"]
        )
        self.wait_until(self.listens, "its sshd listens")

    def change_host_key(self) -> None:
        """Show another host key than the one that known_hosts holds."""
        self.refuse()
        self._write("/etc/ssh/ssh_host_ed25519_key", new_key(self.name)[0], 0o600)
        self.accept()

    def talk_at_login(self) -> None:
        """A banner before the login, and a shell that greets on stdout and stderr whoever comes."""
        self.refuse()
        self._write("/etc/issue.net", "*** Property of the laboratory ***\n" * 20, 0o644)
        config = self.path("/etc/ssh/sshd_config").read_text()
        self._write("/etc/ssh/sshd_config", f"{config}Banner /etc/issue.net\n", 0o644)
        self._write("/home/deploy/.bashrc", "echo Welcome to $HOSTNAME\necho 'mind the step' >&2\n", 0o644)
        self.accept()

    # --- disks and programs

    def fill_disk(self) -> None:
        """Leave no room below /."""
        self.run(["sh", "-c", "dd if=/dev/zero of=/var/full bs=64k; dd if=/dev/zero of=/var/fuller bs=1; true"])

    def make_read_only(self, folder: str) -> None:
        self.run(["sh", "-c", f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"])

    def make_noexec(self, mount_point: str) -> None:
        self.run(["mount", "-o", "remount,noexec", mount_point])

    def remove_python(self) -> None:
        self.run(["sh", "-c", "rm -f /usr/bin/python3* /usr/local/bin/python3*"])

    def _write(self, inside: str, text: str, mode: int) -> None:
        path = self.path(inside)
        path.touch()
        path.chmod(mode)
        path.write_text(text)

    def _last_words(self) -> str:
        with suppress(OSError):
            return self.path("/var/log/sshd.log").read_text()[-2000:]
        return ""


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
