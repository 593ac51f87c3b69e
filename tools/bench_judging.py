"""How long judging takes: cheap cells beside plain parametrised pytest, in one run, as ratios.

Writes evidence of N hosts (healthy eight-GPU nodes), then judges it twice with every shipped check: once as
`pytest --hosts=... --evidence=...`, and once as ordinary `@pytest.mark.parametrize` functions that call the very same
checks, with pytest's own --junitxml. Prints wall time and peak memory of each, and the ratio.
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
        assert verdict.outcome.green, verdict.detail
    return test

for check, function in functions():
    globals()["test_" + check.replace(".", "_")] = make(check, function)
"""
ABSENT = {"evidence.fresh": "absent", "host.clock": "absent"}  # they compare with a gather that never was


@dataclass(frozen=True)
class Cost:
    """Wall seconds and peak resident memory (MB) of one process."""

    seconds: float
    megabytes: float


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    count = parser.parse_args().hosts
    folder = Path(tempfile.mkdtemp(prefix="gpugate-bench-"))
    try:
        compare(folder, [f"gpu{n:05d}" for n in range(count)])
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, hosts: list[str]) -> None:
    """Make the evidence, run both, say how they compare."""
    evidence = folder / "evidence"
    evidence.mkdir()
    for host in hosts:
        (evidence / f"{host}.json").write_bytes(serialise(healthy(host)))
    group = {"hosts": {host: {} for host in hosts}, "vars": VARIABLES | {"gpugate_checks": ABSENT}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"gpu_fleet": group}))
    (folder / "plain").mkdir()
    (folder / "plain" / "test_plain.py").write_text(
        PLAIN.format(evidence=str(evidence), checks=str(ROOT / "checks"), hosts=hosts, absent=ABSENT)
    )
    cells = cost(
        ["pytest", "-q", "--hosts=gpu_fleet", f"--ansible-inventory={folder / 'hosts.yml'}", f"--evidence={evidence}",
         f"--reports={folder / 'reports'}", "-p", "no:cacheprovider"], ROOT,
    )  # fmt: skip
    plain = cost(
        ["pytest", "-q", "-p", "no:gpugate", "-p", "no:cacheprovider", f"--rootdir={folder / 'plain'}",
         f"--junitxml={folder / 'plain.xml'}", str(folder / "plain")], folder / "plain",
    )  # fmt: skip
    size = sum(path.stat().st_size for path in evidence.iterdir()) / len(hosts) / 1000
    print(f"{len(hosts)} hosts, evidence of {size:.0f} kB each")
    print(f"gpugate's cells, report written: {cells.seconds:6.1f} s {cells.megabytes:6.0f} MB")
    print(f"plain parametrised pytest:       {plain.seconds:6.1f} s {plain.megabytes:6.0f} MB")
    print(f"plain takes {plain.seconds / cells.seconds:.1f} times as long")


def cost(command: list[str], cwd: Path) -> Cost:
    """Run to the end; both have to be green, or the comparison is of nothing."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "unit")}
    began = time.monotonic()
    program = str(Path(sys.executable).parent / command[0])
    process = subprocess.Popen([program, *command[1:]], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{output[-3000:]}")
    return Cost(time.monotonic() - began, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
