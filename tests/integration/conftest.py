"""A provisioned fleet of small nodes for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fleets import simulated_fleet
from judged_site import POLICY, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three healthy, provisioned nodes of two GPUs."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 2}] * 3, time_scale=16) as fleet:
        variables = fleet.inventory.parent / "group_vars"
        variables.mkdir()
        (variables / "gpu_fleet.yml").write_text(yaml.safe_dump(POLICY))
        site = Site(fleet, folder / "reports")
        done = site.playbook("provision.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        yield site


@pytest.fixture
def own_reports(site: Site, tmp_path: Path) -> Site:
    """The same fleet, with reports of this test's own."""
    return Site(site.fleet, tmp_path / "reports")
