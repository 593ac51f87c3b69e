"""A provisioned fleet of small nodes, and `pytest --hosts=...` as a person runs it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from fleets import Fleet

ROOT = Path(__file__).parents[2]
POLICY = {
    "gpugate_board": "H100-SXM5-80GB",
    "gpugate_gpu_count": 2,
    "gpugate_driver_allowed": ">=550.54",
    "gpugate_cuda_versions": ["12.4"],
    "gpugate_power_limit_w": 650,
    "gpugate_burn_min_s": 30,
    "gpugate_burn_max_s": 120,
    "gpugate_rates": {"fma": 57, "f16": 620, "bf16": 620, "s8": 1240, "stream": 3080},
    "gpugate_level": "admit",
    "gpugate_workloads": [{"name": "vllm", "pattern": "vllm serve", "gpus": [0]}],
    "gpugate_checks": {"settings.survive_reboot": "absent", "placement.expected_workloads": "absent"},
}


@dataclass(frozen=True)
class Site:
    """A fleet with its inventory, its policy, and a place for reports."""

    fleet: Fleet
    reports: Path

    def pytest(self, *args: str, cwd: Path = ROOT, hosts: str = "gpu_fleet") -> subprocess.CompletedProcess[str]:
        """Run the checks on this site; `hosts` empty leaves --hosts out."""
        chosen = [f"--hosts={hosts}"] if hosts else []
        return self.fleet.run(
            "pytest", *chosen, f"--ansible-inventory={self.fleet.inventory}", f"--reports={self.reports}",
            "-o", f"cache_dir={self.reports / 'cache'}", *args, cwd=cwd,
        )  # fmt: skip

    def playbook(self, name: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one of the project's playbooks on this site."""
        environment = self.fleet.env | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        return self.fleet.run(
            "ansible-playbook", "-i", self.fleet.inventory, ROOT / "playbooks" / name, *args, cwd=ROOT, env=environment
        )

    def latest(self, kind: str = "latest") -> Path:
        """The folder of the newest report of a kind: latest (whole runs) or partial/latest."""
        return (self.reports / kind).resolve()

    def outcomes(self, kind: str = "latest") -> dict[str, dict[str, str]]:
        """Host to check to outcome, read back from the newest report."""
        from gpugate.report.reader import read_report

        hosts = read_report(self.latest(kind) / "junit.xml").hosts
        return {
            host: {check: str(cell.outcome) for check, cell in cells.cells.items()} for host, cells in hosts.items()
        }

    def red(self, kind: str = "latest") -> dict[str, set[str]]:
        """Host to its red checks."""
        green = {"PASS", "WAIVED"}
        return {
            host: bad
            for host, cells in self.outcomes(kind).items()
            if (bad := {check for check, outcome in cells.items() if outcome not in green})
        }
