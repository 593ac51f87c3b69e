"""The file system that all hosts share below their own changes: this machine's, with what a GPU node has besides.

It is the upper folder of an overlay over /, so that programs such as ldconfig work on it as on a real node.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from . import kernel
from .describe import PASSWORD_HASH, USERS

LIBRARIES = "usr/lib/x86_64-linux-gnu/nvidia/current"  # where Debian puts the driver's
# Of this machine's top folders a host sees the first, has the second as they are on a new machine, and no others.
_SHARED = {"bin", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "var"}
_NEW = ("boot", "dev", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp")
_NEW_BELOW = ("etc/ssh", "etc/sudoers.d", "etc/systemd/system", "var/log", "var/tmp")

SSHD = """HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
"""
SUDOERS = """Defaults env_reset
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
@includedir /etc/sudoers.d
"""
# What a machine of wires and consoles needs, and a host in namespaces has not.
_MASKED = (
    "console-getty dev-hugepages.mount dev-mqueue.mount getty.target proc-sys-fs-binfmt_misc.automount "
    "sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount "
    "systemd-ask-password-console.path systemd-ask-password-wall.path systemd-binfmt systemd-firstboot "
    "systemd-initctl.socket systemd-journal-flush systemd-logind systemd-machine-id-commit systemd-modules-load "
    "systemd-networkd systemd-pstore systemd-random-seed systemd-remount-fs systemd-resolved systemd-sysctl "
    "systemd-sysusers systemd-timesyncd systemd-tmpfiles-setup-dev systemd-udev-trigger systemd-udevd "
    "systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-update-done systemd-update-utmp "
    "systemd-update-utmp-runlevel"
)
# NVIDIA's daemon as Ubuntu's package has it: running, without persistence mode. It holds the mode for as long as it
# runs, and users of NVML see it.
PERSISTENCED = """[Unit]
Description=NVIDIA Persistence Daemon

[Service]
Type=exec
ExecStart=/usr/bin/nvidia-persistenced --no-persistence-mode --verbose

[Install]
WantedBy=multi-user.target
"""
PERSISTENCED_PROGRAM = """#!/usr/bin/env python3
import ctypes, signal, sys

nvml = ctypes.CDLL("libnvidia-ml.so.1")
count = ctypes.c_uint()
if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
    sys.exit("nvidia-persistenced: no driver")


def persistence(mode):
    for index in range(count.value):
        gpu = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(gpu)) or nvml.nvmlDeviceSetPersistenceMode(gpu, mode):
            sys.exit(f"nvidia-persistenced: GPU {index} cannot be set")


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
if "--no-persistence-mode" not in sys.argv:
    persistence(1)
signal.sigwait([signal.SIGTERM])
if "--no-persistence-mode" not in sys.argv:
    persistence(0)
"""


def make(place: Path, public_key: str, node: Path, *, systemd: bool) -> Path:
    """Make the shared folder below `place`; `node` is any node of the fleet: loader and depmod look at its files."""
    upper, whole = place / "base", place / "whole"
    for folder in (upper, place / "work", whole):
        folder.mkdir(parents=True)
    for name in [*_NEW, *_NEW_BELOW]:
        (upper / name).mkdir(parents=True, exist_ok=True)
        os.setxattr(upper / name, "trusted.overlay.opaque", b"y")
    for name in {path.name for path in Path("/").iterdir()} - _SHARED - set(_NEW):
        os.mknod(upper / name, stat.S_IFCHR, 0)  # how an overlay says that there is nothing (overlayfs, whiteouts)
    kernel.mount("overlay", whole, f"lowerdir=/,upperdir={upper},workdir={place}/work")
    _accounts(whole, public_key)
    _system(whole)
    if systemd:
        _units(whole)
    _driver(whole, node)
    kernel.unmount(whole)
    return upper


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _accounts(root: Path, public_key: str) -> None:
    for user, uid in USERS.items():
        for name, line in {
            "passwd": f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash\n",
            "group": f"{user}:x:{uid}:\n",
            "shadow": f"{user}:{PASSWORD_HASH}:19000:0:99999:7:::\n",
        }.items():
            file = root / "etc" / name
            file.write_text(file.read_text() + line)
        home = root / "home" / user
        _write(home / ".ssh/authorized_keys", public_key, 0o600)
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, uid, uid)
        home.chmod(0o755)
        (home / ".ssh").chmod(0o700)
    (root / "root").chmod(0o700)
    (root / "var/tmp").chmod(0o1777)


def _system(root: Path) -> None:
    _write(root / "etc/ssh/sshd_config", SSHD)
    _write(root / "etc/sudoers", SUDOERS, 0o440)
    _write(root / "etc/resolv.conf", "")
    _write(root / "etc/ld.so.conf.d/nvidia.conf", f"/{LIBRARIES}\n")
    for name in ("hostname", "hosts", "machine-id"):
        _write(root / "etc" / name, "")


def _units(root: Path) -> None:
    units = root / "etc/systemd/system"
    for name in _MASKED.split():
        (units / (name if "." in name else f"{name}.service")).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    _write(root / "usr/lib/systemd/system/nvidia-persistenced.service", PERSISTENCED)
    _write(root / "usr/bin/nvidia-persistenced", PERSISTENCED_PROGRAM, 0o755)
    wants = units / "multi-user.target.wants"
    wants.mkdir()
    for name in ("ssh.service", "nvidia-persistenced.service"):
        (wants / name).symlink_to(f"/lib/systemd/system/{name}")


def modules_folder() -> str:
    """Where the modules of the running kernel are."""
    return f"lib/modules/{os.uname().release}"


def show_driver(root: Path, node: Path) -> None:
    """Show the node's libraries and kernel module where programs look for them."""
    kernel.bind(node / "root/usr/lib/x86_64-linux-gnu", root / LIBRARIES)
    kernel.bind(next((node / "root/lib/modules").iterdir()) / "updates", root / modules_folder() / "updates")


def _driver(root: Path, node: Path) -> None:
    (root / LIBRARIES).mkdir(parents=True)
    modules = root / modules_folder()
    (modules / "updates").mkdir(parents=True)
    for name in ("modules.order", "modules.builtin"):
        (modules / name).touch()
    show_driver(root, node)
    for command in (["ldconfig"], ["depmod", "-a", os.uname().release]):
        subprocess.run(["chroot", root, *command], check=True, capture_output=True)
    kernel.unmount(root / LIBRARIES)
    kernel.unmount(modules / "updates")
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)
