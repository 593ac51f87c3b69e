"""Whatever ends a fleet, nothing of it is left on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostfleet import HostSpec, limits, namespace_fleet, needs
from hostfleet.needs import FleetError, cgroup2

DEADLINE_S = 300  # a safety only
HERE = Path(__file__).parent
# Brings a fleet up, says which processes are the fleet's, and is killed.
KILLED = """
import os, signal, sys
from pathlib import Path
from hostfleet import namespace_fleet

with namespace_fleet(Path(sys.argv[1]), hosts=2, systemd=True) as fleet:
    print(*(pid for host in fleet for pid in host.processes()), fleet.server, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_below(folder: Path) -> list[str]:
    """What of a fleet with files below `folder` is left: its processes, mounts and cgroups."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
                mounts = (process / "mountinfo").read_text()
            except OSError:
                continue
            if str(folder).encode() in words or f" {folder}/" in mounts:
                found.append(f"process {process.name}")
    cgroups = (cgroup2() or Path()).glob("gpugate-hostfleet-*")
    return found + [str(path) for path in cgroups if not Path("/proc", path.name.rpartition("-")[2]).exists()]


def wait_until_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while left := left_below(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_fleet_that_is_done_leaves_nothing(tmp_path: Path) -> None:
    """After the block no process, mount or cgroup of the fleet is left, and the machine's links are as before."""
    links = sorted(Path("/sys/class/net").iterdir())
    with namespace_fleet(tmp_path, hosts=2, systemd=True) as fleet:
        assert left_below(tmp_path)
        assert sorted(Path("/sys/class/net").iterdir()) == links
        pids = [pid for host in fleet for pid in host.processes()]
        assert len(pids) > 4
    assert left_below(tmp_path) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert sorted(Path("/sys/class/net").iterdir()) == links


def test_tests_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    """Where the process that made the fleet is killed outright, all of the fleet goes."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path],
        env=os.environ | {"PYTHONPATH": str(HERE)}, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = done.stdout.split()
    assert len(pids) > 4
    wait_until_nothing_is_left(tmp_path)
    assert not [pid for pid in pids if Path("/proc", pid).exists()]


def test_a_fleet_that_does_not_come_up_leaves_nothing(tmp_path: Path) -> None:
    """A host that cannot boot is an error that names it, and the others go with it."""
    impossible = HostSpec("gpu002", disk_mib=-1)
    with (
        pytest.raises(FleetError, match="gpu002 does not come up: mount tmpfs"),
        namespace_fleet(tmp_path, [HostSpec("gpu001"), impossible], systemd=True),
    ):
        pass
    assert left_below(tmp_path) == []


def test_the_limit_on_inotify_is_put_back_by_the_last_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fleets that overlap raise it once, and the value from before the first comes back after the last."""
    limit = tmp_path / "max_user_instances"
    limit.write_text("128")
    monkeypatch.setattr(limits, "_INOTIFY", limit)
    monkeypatch.setattr(limits, "_INOTIFY_NOTE", tmp_path / "note")
    with limits.many_inotify_instances():
        with limits.many_inotify_instances():
            assert int(limit.read_text()) > 1000
        assert int(limit.read_text()) > 1000
    assert limit.read_text() == "128"
    assert not (tmp_path / "note").exists()


def test_a_package_that_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without programs the fleet says which Debian packages to install; without root it says that."""
    monkeypatch.setattr("shutil.which", lambda name, path: None if name in ("sshd", "tini") else f"/usr/sbin/{name}")
    with pytest.raises(FleetError, match=r"apt-get install openssh-server tini$"):
        needs.check(systemd=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(FleetError, match="as root"):
        needs.check(systemd=False)
