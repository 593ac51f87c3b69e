"""Hosts that are lost while they burn: what they measured is not, and nothing is measured twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from controllers import Run, judge
from hostfleet import Host, NamespaceFleet, namespace_fleet

STILL, UNPLUGGED, DROPPED, RESTARTED = "gpu001", "gpu002", "gpu003", "gpu004"
STATE = "/var/lib/gpugate/burns"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceFleet]:
    """Four provisioned hosts of one GPU each, whose burns take long enough for something to happen."""
    long = {"gpugate_burn_min_s": 300, "gpugate_burn_max_s": 300}
    with namespace_fleet(tmp_path_factory.mktemp("lost"), hosts=4, provisioned=True, policy=long) as up:
        yield up


@pytest.fixture(scope="module")
def run(fleet: NamespaceFleet) -> Run:
    """One run of the admission profile, in which three of the hosts are lost as soon as they burn."""
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(judge, fleet)
        for name in (UNPLUGGED, DROPPED, RESTARTED):
            fleet[name].wait_until(partial(_burns, fleet[name]), "it burns")
        fleet[UNPLUGGED].unplug()
        fleet[DROPPED].refuse()  # ends the sessions too
        fleet[DROPPED].accept()
        fleet[RESTARTED].reboot()
        time.sleep(5)
        fleet[UNPLUGGED].plug()
        return running.result()


def _burns(host: Host) -> bool:
    return any(json.loads(live.read_text())["state"] == "burning" for live in host.path(STATE).glob("*/live.json"))


def _evidence(fleet: NamespaceFleet, name: str) -> dict[str, Any]:
    (document,) = fleet.folder.glob(f"reports/latest/evidence/{name}.json")
    evidence: dict[str, Any] = json.loads(document.read_text())
    return evidence


@pytest.mark.parametrize("name", [STILL, UNPLUGGED, DROPPED])
def test_burn_goes_on_and_is_collected(fleet: NamespaceFleet, run: Run, name: str) -> None:
    """A cable that was out for a while and a connection that broke cost nothing: one burn, its evidence, green."""
    assert name in run.green(), run.said
    (only,) = Path(fleet[name].path(STATE)).iterdir()
    assert _evidence(fleet, name)["burn"]["id"] == only.name


def test_restarted_host_says_so(fleet: NamespaceFleet, run: Run) -> None:
    """A node that went down in mid-burn is asked again when it is back, burns no more, and tells what happened."""
    assert any("the node was restarted while it ran" in cause for cause in run.causes(RESTARTED)), run.said
    assert len(list(fleet[RESTARTED].path(STATE).iterdir())) == 1
