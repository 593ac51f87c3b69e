"""A provisioned simulated fleet whose nodes are also the nodes of a real Slurm. Nothing here is skipped: what this
machine lacks is a failure that says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from fleets import simulated_fleet
from judged_site import POLICY, Site

NODES = 4


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what is missing before anything is tried."""
    if told := slurm_cluster.missing():
        pytest.exit(told, returncode=1)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Four provisioned nodes of two GPUs, of which gpu1 has a fouled heat sink. A slurmd gives its tasks no library
    path, as a simulated node's login does: the inventory says where the driver is."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 2}] * NODES, time_scale=6) as fleet:
        variables = fleet.inventory.parent / "group_vars"
        variables.mkdir()
        policy = POLICY | {"gpugate_driver_root": "{{ gpugate_node_root }}"}
        (variables / "gpu_fleet.yml").write_text(yaml.safe_dump(policy))
        site = Site(fleet, folder / "reports")
        done = site.playbook("provision.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        fleet.cli("inject", "gpu1", "fouled_heatsink", "--gpu", "1")
        yield site


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_cluster.Cluster]:
    """The cluster of these nodes."""
    with slurm_cluster.cluster([f"gpu{i}" for i in range(NODES)]) as up:
        yield up


@pytest.fixture
def own_reports(site: Site, tmp_path: Path) -> Site:
    """The same fleet, with reports of this test's own."""
    return Site(site.fleet, tmp_path / "reports")
