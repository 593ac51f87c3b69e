"""Runs that cannot be whole or green: each is non-zero, says one clear sentence, and still leaves a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpugate.policy import CATALOGUE
from judged_site import Site


def test_mistyped_group(own_reports: Site) -> None:
    """A group that does not exist stops the run with the name that was probably meant."""
    done = own_reports.pytest(hosts="gpu_flete")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no host or group" in done.stderr
    assert "did you mean gpu_fleet?" in done.stderr
    assert "gpu_flete" in (own_reports.latest("partial/latest") / "junit.xml").read_text()


def test_no_hosts_option(own_reports: Site) -> None:
    """Without --hosts nobody is judged, and the error says what to write."""
    done = own_reports.pytest(hosts="")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--hosts=gpu_fleet" in done.stderr
    assert (own_reports.latest("partial/latest") / "junit.xml").is_file()


def test_empty_inventory(own_reports: Site, tmp_path: Path) -> None:
    """An inventory without hosts is an error, not an empty green run."""
    (tmp_path / "hosts.yml").write_text("gpu_fleet:\n  hosts: {}\n")
    done = own_reports.fleet.run(
        "pytest", "--hosts=gpu_fleet", f"--ansible-inventory={tmp_path / 'hosts.yml'}",
        f"--reports={own_reports.reports}", cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "has no hosts" in done.stderr
    assert "has no hosts" in (own_reports.latest("partial/latest") / "junit.xml").read_text()


def test_selection_that_leaves_nothing(own_reports: Site) -> None:
    """A -k that matches no check is no success."""
    assert own_reports.pytest("-k", "no_such_check").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_node_that_is_down(own_reports: Site) -> None:
    """A node that is down is MISSING in every check, with its cause; the others are judged as ever."""
    own_reports.fleet.cli("stop", "gpu2")
    try:
        done = own_reports.pytest()
    finally:
        own_reports.fleet.cli("start", "gpu2")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    outcomes = own_reports.outcomes()
    assert set(outcomes["gpu2"].values()) == {"MISSING"}
    assert "cannot be reached" in done.stdout
    assert set(own_reports.red()) == {"gpu2"}


def test_deleted_probe(own_reports: Site) -> None:
    """A node whose probe was deleted is an ERROR in every check, and the sentence says to provision it."""
    own_reports.fleet.cli("inject", "gpu2", "probe_deleted")
    try:
        done = own_reports.pytest()
    finally:
        own_reports.fleet.cli("clear", "gpu2")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert set(own_reports.outcomes()["gpu2"].values()) == {"ERROR"}
    assert "has no probe" in done.stdout
    assert "provision.yml" in done.stdout
    assert set(own_reports.red()) == {"gpu2"}


def test_partial_run_does_not_move_the_latest_report(own_reports: Site) -> None:
    """After a full run with a red node, --lf judges less, says so, and the gate holds on it but knows the full one."""
    site = own_reports
    site.fleet.cli("inject", "gpu1", "persistence_off", "--gpu", "0")
    try:
        assert site.pytest().returncode == 1
        whole = site.latest()
        again = site.pytest("--lf")
    finally:
        site.fleet.cli("clear", "gpu1")
    assert again.returncode == 1, again.stdout
    assert "1 failed" in again.stdout
    assert "partial run (--lf" in again.stdout
    assert site.latest() == whole
    state = ("-e", f"gpugate_admission_state={site.reports}/state.json")
    held = site.playbook("admit.yml", *state, "-e", f"gpugate_report={site.latest('partial/latest')}/junit.xml")
    assert "admitted" not in held.stdout, held.stdout
    full = site.playbook("admit.yml", *state, "-e", f"gpugate_report={site.latest()}/junit.xml")
    assert full.returncode == 0, full.stdout
    admitted = {line.split()[0] for line in full.stdout.splitlines() if " admitted:" in line}
    assert admitted == {"gpu0", "gpu2"}, full.stdout


def test_missing_check_file_is_missing(own_reports: Site, tmp_path: Path) -> None:
    """A check that is not on disk any more is MISSING, not forgotten."""
    project = tmp_path / "project"
    (project / "checks").mkdir(parents=True)
    source = Path(__file__).parents[2]
    (project / "pyproject.toml").write_text((source / "pyproject.toml").read_text())
    for path in (source / "checks").glob("*.py"):
        if path.stem != "memory":
            (project / "checks" / path.name).write_text(path.read_text())
    done = own_reports.pytest(cwd=project)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert own_reports.red() == {
        host: {check for check in CATALOGUE if check.startswith("memory.")} for host in ("gpu0", "gpu1", "gpu2")
    }
