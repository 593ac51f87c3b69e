"""The main job on a simulated fleet over real SSH: one fault turns exactly one node red, and cleared it is green."""

from __future__ import annotations

import re

import pytest
from judged_site import Site

FAULTS = [
    ("module_mismatch", None, "driver.loaded_matches_libraries"),
    ("stranger", 1, "placement.no_strangers"),
    ("fouled_heatsink", 1, "thermal.headroom"),
    ("power_limit_lost", 1, "settings.power_limit"),
    ("wrong_answers", 1, "compute.known_answer"),
    ("xid_79", 1, "errors.xid"),
]


@pytest.mark.parametrize(("fault", "gpu", "check"), FAULTS)
def test_fault_turns_exactly_its_node_red(own_reports: Site, fault: str, gpu: int | None, check: str) -> None:
    """A fault is caught by its check, on its node and GPU, and no healthy node is refused for it (the drill has them
    all, many at once; here each has a run of its own)."""
    site = own_reports
    at = ["--gpu", str(gpu)] if gpu is not None else []
    site.fleet.cli("inject", "gpu1", fault, *at)
    try:
        done = site.pytest()
    finally:
        site.fleet.cli("clear", "gpu1")
    assert done.returncode == 1, done.stdout + done.stderr
    red = site.red()
    assert set(red) == {"gpu1"}, done.stdout
    assert check in red["gpu1"], done.stdout
    if gpu is not None and fault != "xid_79":  # the kernel log tells a bus id
        assert re.search(rf"FAIL {check}.*\n +GPU {gpu} ", done.stdout), done.stdout


def test_cleared_fleet_is_green_and_admitted(own_reports: Site) -> None:
    """With every fault cleared the whole fleet is green, pytest exits 0, and the gate admits every node."""
    site = own_reports
    site.fleet.cli("reboot", "gpu1")  # what the faults left in counters and the log is gone, as on a real node
    assert site.playbook("provision.yml").returncode == 0
    done = site.pytest()
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.red() == {}
    admitted = site.playbook("admit.yml", "-e", f"gpugate_report={site.latest()}/junit.xml",
                             "-e", f"gpugate_admission_state={site.reports}/state.json")  # fmt: skip
    assert admitted.returncode == 0, admitted.stdout + admitted.stderr
    assert len(re.findall(r"^gpu\d +admitted", admitted.stdout, re.MULTILINE)) == 3, admitted.stdout
