"""The fault drill: every fault that the simulator has, caught by its check, on its node and GPU, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from defusedxml import ElementTree
from drill_table import (
    HANGS,
    HEALTHY,
    HOT_NODES,
    LARGE,
    NODES,
    ODD_NODE,
    ROUNDS,
    UNSEEN,
    UNSEEN_NODE,
    WHERE_INJECTED,
    Fault,
    Round,
)  # fmt: skip
from fleets import simulated_fleet
from gpusim.node import Node, all_faults, is_on_gpu
from judged_site import POLICY, Site

WORKLOAD = {"name": "inference", "pattern": "opt/inference/serve"}
PLACED = [
    (at, node, fault) for at, each in enumerate(ROUNDS) for node, faults in each.faults.items() for fault in faults
]


@dataclass(frozen=True)
class Judged:
    """A round as judged: host to check to the lines of a red cell, and what the terminal showed."""

    red: dict[str, dict[str, list[str]]]
    said: str


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Judged]]:
    """All rounds, one after the other, on one fleet that was provisioned once."""
    folder = tmp_path_factory.mktemp("drill")
    nodes = [{"name": name, "gpus": gpus} for name, gpus in NODES.items()]
    with simulated_fleet(folder, nodes=nodes, time_scale=4) as fleet:
        policy = POLICY | {
            "gpugate_gpu_count": LARGE, "gpugate_probe_deadline_s": 12, "gpugate_workloads": [WORKLOAD],
            "gpugate_orphan_mib": 512,
        }  # fmt: skip
        _variables(fleet.inventory.parent / "group_vars/gpu_fleet.yml", policy)
        for name, gpus in NODES.items():
            limit = 700 if name in HOT_NODES else 650
            own: dict[str, object] = {"gpugate_gpu_count": gpus, "gpugate_power_limit_w": limit}
            if name == HANGS:
                own["gpugate_burn_deadline_s"] = 24  # wall: whatever hangs is given up after half of it
            _variables(fleet.inventory.parent / f"host_vars/{name}.yml", own)
        site = Site(fleet, folder / "reports")
        done = site.playbook("provision.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        yield [_judge(site, each) for each in ROUNDS]


def _variables(path: Path, variables: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(variables))


def _judge(site: Site, each: Round) -> Judged:
    faults: dict[str, list[tuple[str, int | None]]] = {
        node: [(f.name, _place(f)) for f in faults] for node, faults in each.faults.items()
    }
    if each is ROUNDS[-1]:
        faults[ODD_NODE] = [(name, gpu) for name, gpus in HEALTHY.items() for gpu in gpus]
        faults[UNSEEN_NODE] = [(name, 0 if is_on_gpu(name) else None) for name in UNSEEN]
    for name, injected in faults.items():
        for fault, gpu in injected:
            Node(site.fleet.node(name)).inject(fault, gpu)
    done = site.pytest(f"--profile={each.profile}")
    for name in faults:
        Node(site.fleet.node(name)).clear()
    assert done.returncode == 1, done.stdout + done.stderr
    return Judged(_red(site.latest() / "junit.xml"), done.stdout)


def _place(fault: Fault) -> int | None:
    return WHERE_INJECTED.get(fault.name, fault.gpu)


def _red(junit: Path) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for suite in ElementTree.parse(junit).iter("testsuite"):
        for case in suite.iter("testcase"):
            if case.find("failure") is None and case.find("error") is None:
                continue
            check = f"{case.attrib['classname'].removeprefix('checks.')}.{case.attrib['name'].partition('[')[0]}"
            lines = (case.findtext("system-out") or "").splitlines()[1:]
            good = re.compile(r", (ok|marginal): has to be ")
            found.setdefault(suite.attrib["name"], {})[check] = [line for line in lines if not good.search(line)]
    return found


def test_every_fault_has_its_entry() -> None:
    """A fault of the simulator is caught here, is healthy, or has the reason why nothing catches it."""
    entries = [fault.name for _, _, fault in PLACED] + list(HEALTHY) + list(UNSEEN)
    assert sorted(entries) == sorted(all_faults())


@pytest.mark.parametrize(("at", "node", "fault"), PLACED, ids=[fault.name for _, _, fault in PLACED])
def test_fault_is_caught(drill: list[Judged], at: int, node: str, fault: Fault) -> None:
    """The check that is there for this fault is red on its node, and names the GPU where the fault is one GPU's."""
    red = drill[at].red.get(node, {})
    check, words = fault.other if fault.check not in red else (fault.check, fault.words)
    assert check in red, red
    lines = [line for line in red[check] if fault.gpu is None or re.search(rf"\bGPU {fault.gpu} \(", line)]
    assert any(words in line for line in lines), red[check]


@pytest.mark.parametrize("at", range(len(ROUNDS)))
def test_healthy_stays_green(drill: list[Judged], at: int) -> None:
    """A node without a fault, or with an odd state that is none, has no red check."""
    assert set(drill[at].red) == set(ROUNDS[at].faults), drill[at].said


@pytest.mark.parametrize("at", range(len(ROUNDS)))
def test_no_healthy_gpu_is_blamed(drill: list[Judged], at: int) -> None:
    """Beside a GPU with a fault, its siblings have no finding outside its bounds."""
    blamed = {}
    for node, faults in ROUNDS[at].faults.items():
        sick = {_place(fault) for fault in faults}
        of_the_node = {fault.check for fault in faults if _place(fault) is None}
        for check, lines in drill[at].red[node].items():
            for line in lines if check not in of_the_node else []:
                found = re.match(r"GPU (\d+) \(.*, outside: ", line)
                if found and int(found[1]) not in sick:
                    blamed[node, check] = line
    assert blamed == {}
