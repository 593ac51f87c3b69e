"""Two controllers over one rack of simulated nodes: they share its cap through the state store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from fleets import simulated_fleet
from gpugate.evidence.codec import parse
from judged_site import POLICY, Site

RACK = {"gpugate_power_domains": {"rack7": {"nodes": 1}}}


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two healthy, provisioned nodes of one rack, in which one node may burn at once."""
    folder = tmp_path_factory.mktemp("rack")
    with simulated_fleet(folder, nodes=[{"gpus": 2}] * 2, time_scale=40) as fleet:
        variables = fleet.inventory.parent / "group_vars"
        variables.mkdir()
        state_file = {"gpugate_state_file": str(folder / "gpugate.sqlite")}
        (variables / "gpu_fleet.yml").write_text(yaml.safe_dump(POLICY | RACK | state_file))
        site = Site(fleet, folder / "reports")
        done = site.playbook("provision.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        yield site


def test_two_controllers_never_burn_at_once(rack: Site, tmp_path: Path) -> None:
    """Two runs of pytest at the same time burn the whole rack each, node by node, and neither loses one."""
    sites = [Site(rack.fleet, tmp_path / name) for name in ("ann", "bob")]
    with ThreadPoolExecutor(2) as both:
        runs = list(both.map(lambda site: site.pytest(), sites))
    said = "".join(run.stdout + run.stderr for run in runs)
    documents = [parse(path.read_bytes()) for site in sites for path in site.latest().glob("evidence/gpu?.json")]
    assert sorted(document.host.hostname for document in documents) == ["gpu0", "gpu0", "gpu1", "gpu1"], said
    assert [len(document.burn.gpus) for document in documents] == [2] * 4
    spans = sorted((each.started_unix_s, each.started_unix_s + each.duration_s) for each in documents)
    assert all(before[1] < after[0] for before, after in pairwise(spans)), spans
