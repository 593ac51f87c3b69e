"""What a pod runs, run for real on a simulated node: from the request to evidence that the checks take."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import yaml
from fleets import Fleet
from gpugate import zipapp
from gpugate.engine import on_node
from gpugate.gather import load, read_log
from judged_site import POLICY

DEPLOY = Path(__file__).parents[2] / "deploy/kubernetes"


def test_pod_answers_a_request(fleet: Fleet, tmp_path: Path) -> None:
    """`gpugate requests`, the two containers of the pod on one node's root, and `gpugate import` give that node's
    evidence; a node whose pod did not run is told."""
    variables = fleet.inventory.parent / "group_vars"
    variables.mkdir()
    (variables / "gpu_fleet.yml").write_text(yaml.safe_dump(POLICY | {"gpugate_gpu_count": 8}))
    chosen = ["--hosts=gpu_fleet", f"--ansible-inventory={fleet.inventory}", "--profile=nightly"]
    asked = fleet.run("gpugate", "requests", *chosen, tmp_path / "plan")
    assert asked.returncode == 0, asked.stderr

    zipapp.build(tmp_path / "gpugate-probe.pyz")
    node = fleet.node("gpu0")
    mounts = {
        "/opt/gpugate/gpugate-probe.pyz": tmp_path / "gpugate-probe.pyz",
        "/opt/gpugate/on_node.py": on_node.__file__,
        "/opt/gpugate/driver_libraries.sh": DEPLOY / "driver_libraries.sh",
        "/requests/$(NODE_NAME).json": tmp_path / "plan/requests/gpu0.json",
        "/host": node.root,
        "/driver": tmp_path / "driver",
    }
    pod = yaml.safe_load((DEPLOY / "job.yml").read_text())["spec"]["template"]["spec"]
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs/gpu0.log").open("wb") as log:  # as a runtime keeps it: both streams in one file
        for container in (*pod["initContainers"], *pod["containers"]):
            command = [str(mounts.get(word, word)) for word in container["command"]]
            env = {"PATH": os.environ["PATH"], "NODE_NAME": "gpu0"}
            subprocess.run(command, stdout=log, stderr=log, env=env, timeout=120, check=True)
            state = tmp_path / "driver/usr/lib64" / node.state.name
            if not state.exists():
                state.symlink_to(node.state)  # the simulated driver keeps its state beside its libraries

    taken = fleet.run("gpugate", "import", "--plan", tmp_path / "plan", f"--evidence={tmp_path}/ev", tmp_path / "logs")
    assert taken.returncode == 1
    assert "gpu1 sent nothing" in taken.stderr
    assert "evidence of 1 of 2 hosts, profile nightly" in taken.stdout
    found = load(tmp_path / "ev", "gpu0", read_log(tmp_path / "ev"))
    assert found.evidence is not None, (tmp_path / "logs/gpu0.log").read_text()
    uuids = [line.partition(": ")[2] for line in fleet.cli("show", "gpu0", "gpu.*.uuid").stdout.splitlines()]
    assert [gpu.uuid for gpu in found.evidence.gpus] == uuids
    assert found.nonce == json.loads((tmp_path / "plan/requests/gpu0.json").read_text())["nonce"]
