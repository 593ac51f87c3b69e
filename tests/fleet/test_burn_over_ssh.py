"""A burn that was started over SSH belongs to the node: the connection and whoever held it may go."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleets import DEADLINE_S, Fleet, simulated_fleet, until
from gpugate import zipapp


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One node, with the probe in its home."""
    folder = tmp_path_factory.mktemp("burning")
    with simulated_fleet(folder, nodes=[{"gpus": 2}], time_scale=20) as up:
        zipapp.build(folder / "probe.pyz")
        shutil.copy(folder / "probe.pyz", up.node("gpu0").home)
        yield up


def _burn(fleet: Fleet, words: str) -> str:
    root = fleet.node("gpu0").root
    return f"python3 probe.pyz --rootfs {root} --state-dir {root}/var/lib/gpugate burn {words}"


def _is_at(fleet: Fleet, state: str) -> bool:
    """What the newest burn of the node is at."""
    burns = json.loads(fleet.ssh("gpu0", _burn(fleet, "status --json")).stdout)["burns"]
    return bool(burns[0]["state"] == state)


def test_burn_outlives_its_connection(fleet: Fleet) -> None:
    """The controller's SSH client is killed in mid-burn; the burn comes to its own end and the next one fetches it."""
    command = ["ssh", "-F", str(fleet.ssh_config), "gpu0", _burn(fleet, "--duration 100 --no-memory")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stderr is not None
        assert any("GPU 1 (" in line for line in client.stderr)  # it burns
        client.kill()
        client.communicate(timeout=DEADLINE_S)
    until(lambda: not _is_at(fleet, "burning"))
    done = fleet.ssh("gpu0", _burn(fleet, "fetch"))
    assert done.returncode == 0, done.stderr
    burn = json.loads(done.stdout)
    assert burn["seconds"] >= 100
    assert "aborted" not in [gpu["ended"] for gpu in burn["gpus"]]
    assert Path(burn["samples"]["path"]).is_file()


def test_started_on_one_connection_stopped_on_another(fleet: Fleet) -> None:
    """Each of start, stop and fetch is a short command of its own; what lies between needs no connection."""
    request = {"min_s": 5000, "max_s": 5000, "headroom_c": 5, "abort_below_slowdown_c": 0, "deadline_s": 100}
    started = fleet.ssh("gpu0", _burn(fleet, "start --request -"), input=json.dumps(request))
    assert started.returncode == 0, started.stderr
    name = json.loads(started.stdout)["id"]
    assert fleet.ssh("gpu0", _burn(fleet, f"fetch {name}")).returncode == 1
    assert fleet.ssh("gpu0", _burn(fleet, f"stop {name}")).stdout == f"burn {name} stopped: done\n"
    burn = json.loads(fleet.ssh("gpu0", _burn(fleet, f"fetch {name}")).stdout)
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
