"""A gather that cannot end well: it leaves a report where it can, and nothing running."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from replays import DEADLINE_S, Project, project

GOOD = "def check_it(node, expect):\n    for gpu in node.gpus:\n        expect('x', 1, at=gpu).equals(1)\n"


@pytest.fixture
def slow(tmp_path: Path) -> Project:
    """Two hosts, both this machine, whose probe never answers and notes its process id."""
    judged = project(tmp_path, GOOD, hosts=("gpu0", "gpu1"))
    probe = tmp_path / "slow"
    probe.write_text(f"#!/bin/sh\necho $$ >> {tmp_path / 'pids'}\nexec sleep 600\n")
    probe.chmod(0o755)
    inventory = json.loads((tmp_path / "hosts.json").read_text())
    inventory["gpu_fleet"]["vars"] |= {
        "ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": str(probe),
    }  # fmt: skip
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    return judged


def running(folder: Path) -> list[int]:
    """The probes that have started and not ended; zombies have."""
    pids = (folder / "pids").read_text().split() if (folder / "pids").exists() else []
    states = {int(pid): Path(f"/proc/{pid}/stat") for pid in pids}
    return [
        pid for pid, stat in states.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
    ]


@pytest.mark.parametrize("arguments", [[], ["-n", "1"]], ids=["plain", "xdist"])
def test_interrupted_gather_can_be_gone_on_with(slow: Project, arguments: list[str]) -> None:
    """Ctrl-C while hosts are asked ends with status 2, ends the commands on the hosts, and says how to go on."""
    command = slow.command(*arguments, replay=False)
    with subprocess.Popen(command, cwd=slow.folder, env=slow.env, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(running(slow.folder)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, said
    assert running(slow.folder) == []
    (kept,) = (slow.folder / "reports" / "unfinished").iterdir()
    assert f"the same command with --resume={kept.name} goes on with it" in said
    assert not (slow.folder / "reports" / "latest").exists()


def test_evidence_that_cannot_be_kept(slow: Project) -> None:
    """Where reports cannot be written, nobody is asked, and one sentence says why."""
    (slow.folder / "reports").write_text("a file")
    done = subprocess.run(
        slow.command(replay=False), cwd=slow.folder, env=slow.env, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR, done.stdout
    assert "evidence cannot be kept below" in done.stdout
    assert "Traceback" not in done.stdout
    assert running(slow.folder) == []


def test_a_corrupt_state_store_lets_no_capped_host_burn(slow: Project) -> None:
    """The project's own state store is state/gpugate.sqlite; where it is corrupt, hosts that need it are MISSING."""
    inventory = json.loads((slow.folder / "hosts.json").read_text())
    inventory["gpu_fleet"]["vars"] |= {"gpugate_power_domains": {"rack7": {"nodes": 1}}}
    (slow.folder / "hosts.json").write_text(json.dumps(inventory))
    (slow.folder / "state").mkdir()
    (slow.folder / "state" / "gpugate.sqlite").write_bytes(b"no database" * 500)
    done = subprocess.run(
        slow.command(replay=False), cwd=slow.folder, env=slow.env, capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert slow.outcomes() == {"mine.it gpu0": "MISSING", "mine.it gpu1": "MISSING"}
    assert f"the state store {slow.folder}/state/gpugate.sqlite is corrupt" in done.stdout
    assert running(slow.folder) == []
