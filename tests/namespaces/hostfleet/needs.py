"""What this machine has to have: said in one sentence where something lacks, never skipped over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_PACKAGES = {"sshd": "openssh-server", "ip": "iproute2", "sudo": "sudo", "tini": "tini", "depmod": "kmod"}
_SYSTEMD_PACKAGES = {"systemctl": "systemd", "dbus-daemon": "dbus"}
_FOLDERS = ":/usr/local/sbin:/usr/sbin:/sbin"  # not on everybody's PATH


class FleetError(Exception):
    """The fleet cannot be had, or one of its hosts cannot."""


def check(*, systemd: bool) -> None:
    """:raises FleetError: this user is not root, or Debian packages are missing."""
    if os.geteuid() != 0:
        raise FleetError("hosts in namespaces need root: run these tests as root (`sudo tox -e hosts`)")
    wanted = _PACKAGES | (_SYSTEMD_PACKAGES if systemd else {})
    path = os.environ.get("PATH", "") + _FOLDERS
    missing = [package for command, package in wanted.items() if not shutil.which(command, path=path)]
    if missing:
        raise FleetError(f"hosts in namespaces need Debian packages: apt-get install {' '.join(missing)}")
    if systemd and cgroup2() is None:
        raise FleetError("hosts with systemd need a cgroup2 mount that can be written: there is none on this machine")


def cgroup2() -> Path | None:
    """Where the unified hierarchy is mounted: /sys/fs/cgroup, or beside those of version 1."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and os.access(fields.split()[4], os.W_OK):
            return Path(fields.split()[4])
    return None
