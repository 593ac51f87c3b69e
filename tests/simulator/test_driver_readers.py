"""Programs that others wrote read the simulated driver as they read a real one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from driver_node import DriverNode, MakeNode


@pytest.fixture
def node(make_node: MakeNode) -> DriverNode:
    """Two GPUs, the second with a process and a load."""
    node = make_node(gpus=2)
    node.state.add_process(1, os.getpid(), 5000)
    node.state.set("gpu.1.load_utilization", 80)
    node.state.set("gpu.1.load_power_share", 0.5)
    node.state.set("gpu.1.power_limit_w", 600)
    return node


def _run(node: DriverNode, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**node.environment(), "COLUMNS": "200", "TERM": "dumb", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_nvitop_shows_the_node(node: DriverNode) -> None:
    """Driver version, board, power limit, memory and the process."""
    shown = _run(node, "nvitop", "-1")
    assert "580.95.05" in shown
    assert shown.count("80GB HBM3") + shown.count("H100") >= 2
    assert re.search(r"\d+W / 700W", shown)
    assert re.search(r"\d+W / 600W", shown)
    assert "5000MiB" in shown
    assert str(os.getpid()) in shown


def test_gpustat_shows_the_node(node: DriverNode) -> None:
    """Name, temperature, memory and the process's pid."""
    shown = _run(node, "gpustat", "--no-color", "--show-pid", "--show-power")
    lines = [line for line in shown.splitlines() if "NVIDIA H100 80GB HBM3" in line]
    assert len(lines) == 2
    assert "/   700 W" in lines[0] or "/ 700 W" in lines[0]
    assert re.search(r"5000 / 81559 MB", lines[1])
    assert str(os.getpid()) in lines[1]


def test_nvitop_exporter_exports_the_node(node: DriverNode, tmp_path: Path) -> None:
    """Power limits and temperatures come out as metrics of both GPUs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nvitop_exporter",
            "--bind-address",
            "127.0.0.1",
            "--port",
            str(port),
            "--interval",
            "0.5",
        ],
        env=node.environment(),
        stdout=log,
        stderr=log,
    )
    try:
        deadline, text = time.monotonic() + 40, ""
        while len(re.findall(r"^gpu_(?:power_limit_W|temperature_C)\{", text, re.M)) < 4:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:
                continue
    finally:
        process.terminate()
        process.wait(20)
        log.close()
    assert "580.95.05" in text
    limits = re.findall(r'^gpu_power_limit_W\{.*index="(\d)".*\} ([\d.]+)$', text, re.M)
    assert {(index, float(watts)) for index, watts in limits} == {("0", 700.0), ("1", 600.0)}
    assert len(re.findall(r"^gpu_temperature_C\{.*\} (\d+)", text, re.M)) == 2
