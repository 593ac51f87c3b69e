"""Two builds of the probe and two policies side by side in one fleet, and back: nobody is refused for his half."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from fleets import simulated_fleet
from gpugate.report.reader import Report, read_report
from judged_site import POLICY
from sites import Site, changed, make

VERSION = '__version__ = "0.1.0"'


@dataclass(frozen=True)
class Halves:
    """gpu0 has the build `old` and its policy, gpu1 the build `new` and another policy."""

    site: Site
    old: str
    new: str

    def current(self, node: str) -> str:
        """The digest of a node's current build."""
        return str((self.site.fleet.node(node).root / "opt/gpugate/probe/current").readlink())

    def variables(self, host: str, **variables: object) -> None:
        """Give a host variables of its own."""
        path = self.site.policy.parents[1] / f"host_vars/{host}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(variables))

    def validate(self, *options: str) -> Path:
        """Run validate.yml; the report that it names."""
        said = self.site.play("validate.yml", *options)
        [line] = re.findall(r"^ *(ansible-playbook playbooks/admit\.yml .*)$", said, re.MULTILINE)
        return Path(json.loads(shlex.split(line)[-1])["gpugate_report"])

    def admit(self, report: Path) -> dict[str, str]:
        """What admit.yml does with each node by this report."""
        said = self.site.play("admit.yml", "-e", json.dumps({"gpugate_report": str(report)}))
        return dict(re.findall(r"^(gpu\d)  (\w[\w ]*): ", said, re.MULTILINE))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Halves]:
    """Provisioned by an older checkout, then gpu1 alone by this one; policy allows both builds."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 1}] * 2, time_scale=16) as fleet:
        site = make(folder, fleet)
        site.policy.write_text(yaml.safe_dump(POLICY | {"gpugate_gpu_count": 1}))
        package = site.project / "plugins/gpugate/__init__.py"
        text = package.read_text()
        assert VERSION in text
        package.write_text(text.replace(VERSION, '__version__ = "0.0.9"'))
        site.play("provision.yml")
        package.write_text(text)
        site.play("provision.yml", "--limit", "gpu1")
        old, new = (Halves(site, "", "").current(node) for node in ("gpu0", "gpu1"))
        builds = {"gpugate_probe_builds": [old, new]}
        site.policy.write_text(yaml.safe_dump(POLICY | {"gpugate_gpu_count": 1} | builds))
        halves = Halves(site, old, new)
        halves.variables("gpu0", gpugate_headroom_c=4.0)
        yield halves


@pytest.fixture(scope="module")
def first(halves: Halves) -> Path:
    """The report of the first run over both halves."""
    return halves.validate()


def whole(report: Report) -> dict[str, str]:
    """The outcome of evidence.whole by host."""
    return {host: str(cells.cells["evidence.whole"].outcome) for host, cells in report.hosts.items()}


def test_both_halves_are_admitted_and_kept(halves: Halves, first: Path) -> None:
    """Two builds and two policies in one run: both nodes are admitted by it. After another edit for gpu1 alone, gpu0's
    report counts as before, gpu1 is held until the next run, and kept by that."""
    assert halves.old != halves.new
    hosts = read_report(first).hosts
    assert len({cells.identity["policy_digest"] for cells in hosts.values()}) == 2
    assert halves.admit(first) == {"gpu0": "admitted", "gpu1": "admitted"}
    halves.variables("gpu1", gpugate_headroom_c=6.0)
    assert halves.admit(first) == {"gpu0": "stays in", "gpu1": "held"}
    nightly = halves.validate("-e", "gpugate_profile=nightly")
    assert read_report(nightly).profile == "nightly"
    assert halves.admit(nightly) == {"gpu0": "stays in", "gpu1": "stays in"}


def test_a_build_that_policy_does_not_list_is_red(halves: Halves, first: Path) -> None:
    """Without the old build in gpugate_probe_builds, gpu0 is red for it by name, and gpu1 is green as before."""
    site = halves.site
    copy = site.project / "inventory/next"
    shutil.copytree(site.project / "inventory/simulated", copy)
    policy = copy / "group_vars/gpu_fleet.yml"
    policy.write_text(policy.read_text().replace(f"- {halves.old}\n", ""))
    done = site.fleet.run(
        "pytest", "--hosts=gpu_fleet", f"--ansible-inventory={copy}", f"--evidence={first.parent}/evidence",
        f"--reports={copy}", "-k", "whole", cwd=site.project,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert whole(read_report(copy / "partial/latest/junit.xml")) == {"gpu0": "FAIL", "gpu1": "PASS"}
    assert f"probe build is {halves.old}, outside: has to be one of {halves.new} [policy gpugate_probe_builds]" in (
        " ".join(done.stdout.split())
    )


def test_back_to_the_build_before(halves: Halves) -> None:
    """gpugate_probe=previous on all nodes takes the upgraded half back and leaves the other; nobody is refused."""
    said = halves.site.play("provision.yml", "-e", "gpugate_probe=previous")
    assert changed(said) == {"gpu0": 0, "gpu1": 1}
    assert [halves.current(node) for node in ("gpu0", "gpu1")] == [halves.old] * 2
    report = halves.validate("-e", "gpugate_profile=nightly")
    assert halves.admit(report) == {"gpu0": "stays in", "gpu1": "stays in"}
