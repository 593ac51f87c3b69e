"""The main job on a simulated fleet: provision, check, admit - with the very commands that an operator types.

Brings up the fleet of inventory/simulated (four nodes of eight H100, one heat sink fouled), runs the three commands,
says who was admitted and who was refused, and takes the fleet down again. Exits 0 when the gate decided as it must:
three nodes admitted, gpu2 refused for the thermal headroom of GPU 5. Everything that it writes stays in this folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from defusedxml import ElementTree

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / ".gpugate" / "demo"
STATE = OWN / "admission.json"
REPORTS = ROOT / "reports"
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def main() -> int:
    """Run the demo; the exit status for the shell."""
    began = time.monotonic()
    shutil.rmtree(OWN, ignore_errors=True)  # each demo starts from nodes that nobody has admitted yet
    (OWN / "tmp").mkdir(parents=True)
    try:
        run("gpusim", "up")
        run("ansible-playbook", "playbooks/provision.yml")
        red = run("pytest", "--hosts=gpu_fleet", allowed=(0, 1))
        run("ansible-playbook", "playbooks/admit.yml", "-e", f"gpugate_admission_state={STATE}")
    finally:
        run("gpusim", "down", allowed=(0, 1, 2))
    say(f"the demo took {time.monotonic() - began:.0f} s and left nothing running")
    return judged(red)


def run(*command: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Run a command in the project's root, with temporary files kept inside it; its exit status, if it is allowed."""
    say(f"$ {shlex.join(command)}")
    began = time.monotonic()
    folder = Path(sys.executable).parent
    environment = os.environ | {"TMPDIR": str(OWN / "tmp"), "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    status = subprocess.run([str(folder / command[0]), *command[1:]], cwd=ROOT, env=environment, check=False).returncode
    say(f"({command[0]} ended with {status} after {time.monotonic() - began:.1f} s)")
    if status not in allowed:
        raise SystemExit(f"the demo stops: {shlex.join(command)} ended with {status}")
    return status


def judged(red: int) -> int:
    """Whether the gate decided as it must on this fleet, said in words."""
    service = json.loads(STATE.read_text())["hosts"]
    nodes = sorted(json.loads((REPORTS / "latest" / "run.json").read_text())["hosts"])
    admitted = [node for node in nodes if service.get(node, {}).get("in_service")]
    refused = [node for node in nodes if node not in admitted]
    say(f"admitted: {', '.join(admitted) or 'nobody'}; refused: {', '.join(refused) or 'nobody'}")
    say(f"reports: {REPORTS / 'latest'} (junit.xml, run.json, evidence/)")
    cases = ElementTree.parse(REPORTS / "latest" / "junit.xml").iter("testcase")
    why = [case.find("failure") for case in cases if case.get("name") == "headroom[gpu2]"]
    right_gpu = len(why) == 1 and why[0] is not None and why[0].get("message", "").startswith("GPU 5 ")
    if red == 1 and admitted == ["gpu0", "gpu1", "gpu3"] and refused == ["gpu2"] and right_gpu:
        return 0
    say("this is not what this fleet deserves: three nodes are healthy, gpu2 has a fouled heat sink on GPU 5")
    return 1


def say(text: str) -> None:
    """A line of the demo's own, apart from what the commands say."""
    print(f"{BOLD}==> {text}{PLAIN}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
