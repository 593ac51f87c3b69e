"""Turns a process, the first of a new pid namespace, into the init of a host."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from . import base, kernel, network
from .describe import USER, Machine

_NVIDIA_MAJOR, _NVIDIA_CONTROL, _NVIDIA_UVM_MAJOR = 195, 255, 510
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container": "namespaces"}
# Places of /proc and /sys that the node's hardware fills; a folder is shown as it is and follows its changes.
_HARDWARE = (
    "proc/driver",
    "proc/sys/kernel/random/boot_id",
    "sys/module",
    "sys/bus/pci/devices",
    "sys/devices/system/node",
)


def become(machine: Machine, root: Path, cgroup: Path | None, plugged_in: Callable[[], None]) -> None:
    """Boot the host whose file system is mounted at `root`; never returns.

    :param cgroup: a cgroup of its own, for systemd
    :param plugged_in: says that the namespaces are there, and returns when the host's cards are
    :raises OSError: which step failed
    """
    flags = kernel.NEWNS | kernel.NEWUTS | kernel.NEWIPC | kernel.NEWNET
    if cgroup:
        (cgroup / "cgroup.procs").write_text("0")
        flags |= kernel.NEWCGROUP
    kernel.unshare(flags)
    plugged_in()
    kernel.make_private()
    os.umask(0o022)
    os.chdir(root)
    _mounts(systemd=machine.systemd)
    _devices(Path(machine.node))
    _hardware(Path(machine.node))
    _identity(machine)
    kernel.enter_root()
    network.configure_cards(machine.links)
    os.setsid()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and an exec would keep that
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if machine.systemd:
        os.execve("/lib/systemd/systemd", ["/sbin/init", "--log-target=journal"], _ENVIRONMENT)  # noqa: S606
    # sshd is no child of the init that tini is, so that it may end without the host
    os.posix_spawn("/usr/sbin/sshd", ["/usr/sbin/sshd", "-E", "/var/log/sshd.log"], _ENVIRONMENT)
    os.execve("/usr/bin/tini", ["/usr/bin/tini", "-g", "--", "/bin/sleep", "infinity"], _ENVIRONMENT)  # noqa: S606


def _mounts(*, systemd: bool) -> None:
    kernel.mount("proc", "proc", flags=kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.mount("sysfs", "sys", flags=kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    kernel.mount("tmpfs", "run", "mode=755", kernel.NOSUID | kernel.NODEV)
    kernel.mount("tmpfs", "tmp", "mode=1777", kernel.NOSUID | kernel.NODEV)
    kernel.mount("tmpfs", "dev", "mode=755", kernel.NOSUID)
    for folder in ("dev/pts", "dev/shm", "run/sshd", "run/lock"):
        Path(folder).mkdir()
    kernel.mount("devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=620", kernel.NOSUID | kernel.NOEXEC)
    kernel.mount("tmpfs", "dev/shm", "mode=1777", kernel.NOSUID | kernel.NODEV)
    if systemd:
        kernel.mount("cgroup2", "sys/fs/cgroup", flags=kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)


def _devices(node: Path) -> None:
    for name, (major, minor) in _DEVICES.items():
        _device(name, major, minor)
    for name, target in _LINKS.items():
        Path("dev", name).symlink_to(target)
    for name in sorted(path.name for path in (node / "root/dev").glob("nvidia*")):
        if name == "nvidia-uvm":
            _device(name, _NVIDIA_UVM_MAJOR, 0)
        else:
            number = name.removeprefix("nvidia")
            _device(name, _NVIDIA_MAJOR, int(number) if number.isdigit() else _NVIDIA_CONTROL)
    Path("dev/kmsg").touch()
    kernel.bind(node / "root/dev/kmsg", "dev/kmsg")


def _device(name: str, major: int, minor: int) -> None:
    os.mknod(f"dev/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    Path("dev", name).chmod(0o666)


def _hardware(node: Path) -> None:
    for inside in _HARDWARE:
        kernel.bind(node / "root" / inside, inside)
    base.show_driver(Path(), node)


def _identity(machine: Machine) -> None:
    kernel.set_hostname(machine.name)
    Path("etc/hostname").write_text(f"{machine.name}\n")
    Path("etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n")
    Path("etc/machine-id").write_bytes(Path(machine.node, "root/etc/machine-id").read_bytes())
    for name, text, mode in (
        ("etc/ssh/ssh_host_ed25519_key", machine.host_key, 0o600),
        (f"etc/sudoers.d/{USER}", machine.sudoers, 0o440),
    ):
        path = Path(name)
        if not path.exists():  # a reboot finds what the host became meanwhile
            path.touch(mode)
            path.write_text(text)
            path.chmod(mode)
