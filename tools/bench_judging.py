"""How long judging takes: cheap cells beside plain parametrised pytest, in one run, as ratios.

Writes evidence of N hosts (healthy eight-GPU nodes), then judges it with every shipped check: as
`pytest --hosts=... --evidence=...`, and as ordinary `@pytest.mark.parametrize` functions that call the same checks,
with pytest's own --junitxml: once as short as they can be, and once leaving the findings in it as our report does.
Prints wall time, processor time and peak memory of each, and the ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from gpugate.evidence.codec import serialise  # noqa: E402  # the path above comes first
from healthy import VARIABLES, healthy  # noqa: E402

PLAIN = """
import importlib.util, inspect, pathlib
from datetime import date
import pytest
from gpugate.gather.folder import load
from gpugate.verdict import judge
from healthy import policy

EVIDENCE, CHECKS = pathlib.Path({evidence!r}), pathlib.Path({checks!r})
HOSTS = {hosts!r}
OWNER, TODAY, CACHE = policy(checks={absent!r}), date.today(), {{}}

def gathered(host):
    if host not in CACHE:
        CACHE[host] = load(EVIDENCE, host, None)
    return CACHE[host]

def functions():
    for path in sorted(CHECKS.glob("*.py")):
        spec = importlib.util.spec_from_file_location("plain_" + path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in vars(module).items():
            check = f"{{path.stem}}.{{name[6:]}}"
            if name.startswith("check_") and inspect.isfunction(function) and check in OWNER.expected("admission"):
                yield check, function

def make(check, function):
    @pytest.mark.parametrize("host", HOSTS)
    def test(host):
        verdict = judge(check, function, gathered(host), OWNER, TODAY)
        {tell}
        assert verdict.outcome.green, verdict.detail
    return test

for check, function in functions():
    globals()["test_" + check.replace(".", "_")] = make(check, function)
"""
PLAINLY = {
    "plain parametrised pytest, outcomes only": "",
    "the same with every finding in its JUnit": "print(verdict.detail)",
}
ABSENT = {"evidence.fresh": "absent", "host.clock": "absent"}  # they compare with a gather that never was


@dataclass(frozen=True)
class Cost:
    """Of one process: wall seconds, processor seconds (user and system), peak resident memory in MB."""

    seconds: float
    cpu_seconds: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:6.1f} s {self.cpu_seconds:6.1f} s of processor time {self.megabytes:6.0f} MB"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=2, help="the quickest of so many counts, of each in turn")
    parser.add_argument("--alone", action="store_true", help="gpugate only, nothing to compare with")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gpugate-bench-"))
    try:
        compare(folder, [f"gpu{n:05d}" for n in range(asked.hosts)], asked.runs, asked.alone)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, hosts: list[str], runs: int, alone: bool) -> None:
    """Make the evidence, run both in turn, say how they compare."""
    evidence = folder / "evidence"
    size = write_evidence(evidence, hosts)
    group = {"hosts": {host: {} for host in hosts}, "vars": VARIABLES | {"gpugate_checks": ABSENT}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"gpu_fleet": group}))
    cells = ["pytest", "-q", "--hosts=gpu_fleet", f"--ansible-inventory={folder / 'hosts.yml'}",
             f"--evidence={evidence}", f"--reports={folder / 'reports'}", "-p", "no:cacheprovider"]  # fmt: skip
    measured: dict[str, list[Cost]] = {}
    for _ in range(runs):
        measured.setdefault("gpugate's cells, report written", []).append(cost(cells, ROOT))
        shutil.rmtree(folder / "reports")
        for what, tell in {} if alone else PLAINLY.items():
            measured.setdefault(what, []).append(cost(plain(folder, hosts, tell), folder))
    print(f"{len(hosts)} hosts, evidence of {size / 1000:.0f} kB each; the best of {runs}")
    ours = best(measured["gpugate's cells, report written"])
    for what, costs in measured.items():
        least = best(costs)
        wall, cpu = least.seconds / ours.seconds, least.cpu_seconds / ours.cpu_seconds
        print(f"{what:46} {least}  {wall:4.1f} times as long, {cpu:4.1f} times the processor time")


def plain(folder: Path, hosts: list[str], tell: str) -> list[str]:
    """The command that judges by parametrised tests; writes their file."""
    folder = folder / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "test_plain.py").write_text(
        PLAIN.format(
            evidence=str(folder.parent / "evidence"), checks=str(ROOT / "checks"), hosts=hosts, absent=ABSENT, tell=tell
        )
    )
    return ["pytest", "-q", "-p", "no:gpugate", "-p", "no:cacheprovider", f"--rootdir={folder}",
            "-o", "junit_logging=system-out", f"--junitxml={folder / 'plain.xml'}", str(folder)]  # fmt: skip


def best(costs: list[Cost]) -> Cost:
    """The least of each, as each is disturbed on its own."""
    return Cost(*(min(getattr(cost, name) for cost in costs) for name in ("seconds", "cpu_seconds", "megabytes")))


def write_evidence(folder: Path, hosts: list[str]) -> int:
    """A document for each host, healthy, with ids of its own; bytes of one."""
    folder.mkdir()
    document = serialise(healthy("HOST"))
    for number, host in enumerate(hosts):
        own = document.replace(b'"HOST"', f'"{host}"'.encode()).replace(b'"GPU-', f'"GPU-{number:05d}-'.encode())
        (folder / f"{host}.json").write_bytes(own)
    return len(document)


def cost(command: list[str], cwd: Path) -> Cost:
    """Run to the end; both have to be green, or the comparison is of nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "plugins"), str(ROOT / "tests" / "unit")])
    began = time.monotonic()
    program = str(Path(sys.executable).parent / command[0])
    process = subprocess.Popen([program, *command[1:]], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{output[-3000:]}")
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
