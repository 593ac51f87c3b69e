"""A small srun and sinfo for machines without Slurm: tasks run here, their lines are labelled as srun labels them.

FAKE_SRUN in the environment is what goes wrong: `foreign` (a task that nobody started), `long` (a line without end),
`hang` (gpu1 never answers), `absent` (gpu1's task never starts), `refused` (srun itself), `fails` (gpu1's cannot be
launched: the whole step is aborted), `twice` (gpu1's output comes twice).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from engine_answers import document, target
from gpugate.inventory import Target

_SRUN = """
import os, subprocess, sys
wrong = os.environ.get("FAKE_SRUN", "")
nodes = open(os.environ["SLURM_HOSTFILE"]).read().split()
command = sys.argv[sys.argv.index("/bin/sh"):]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(" ".join(nodes) + "\\n")

def say(text, stream=sys.stdout):
    stream.write(text + "\\n")
    stream.flush()

def fail(text):
    say("srun: error: " + text, sys.stderr)
    sys.exit(1)

if wrong == "refused":
    fail("Unable to allocate resources: Invalid account")
say("srun: job 7 queued and waiting for resources", sys.stderr)
if wrong == "fails" and "gpu1" in nodes:
    say("0: gpugate-answer begin")
    say("srun: error: Task launch for StepId=7.0 failed on node gpu1: Communication connection failure", sys.stderr)
    say("srun: error: gpu0: task 0: Killed", sys.stderr)
    sys.exit(1)
started, given = [], None
for task, node in enumerate(nodes):
    if wrong == "absent" and node == "gpu1":
        continue
    pipe = subprocess.PIPE
    env = {"PATH": os.environ["PATH"], "SLURMD_NODENAME": node}
    started.append((task, node, subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe)))
for task, _, process in started:
    say("%d: %s" % (task, process.stdout.readline().decode().rstrip()))
given = sys.stdin.buffer.read()
if wrong == "foreign":
    say("%d: gpugate-answer begin" % len(nodes))
if wrong == "long":
    sys.stdout.write("0: " + "x" * 200000)
for task, node, process in started:
    output, errors = process.communicate(given)
    if wrong == "hang" and node == "gpu1":
        continue
    for line in output.decode().splitlines() * (2 if wrong == "twice" and node == "gpu1" else 1):
        say("%2d: %s" % (task, line))
    for line in errors.decode().splitlines():
        say("%2d: %s" % (task, line), sys.stderr)
sys.stdout.flush()
if wrong == "hang":
    sys.stdin.close()
    import time
    time.sleep(600)
"""
_SINFO = """
import os
print(os.environ["FAKE_SINFO"])
"""
_PROBE = """
import hashlib, json, sys
request = json.load(sys.stdin)
document = json.load(open(__file__ + ".json"))
document.update(nonce=request["nonce"], profile=request["profile"])
text = json.dumps(document).encode()
print("burning", file=sys.stderr)
digest = hashlib.sha256(text).hexdigest().encode()
sys.stdout.buffer.write(b"gpugate-evidence %d %s\\n%s\\n" % (len(text), digest, text))
"""
IDLE = "gpu0|idle|none\ngpu1|idle|none\ngpu2|idle|none"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: str = "", sinfo: str = IDLE) -> Path:
    """Put both on the PATH; the file that holds one line for each srun, with its nodes."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("srun", _SRUN), ("sinfo", _SINFO)):
        program = programs / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_SRUN", wrong)
    monkeypatch.setenv("FAKE_SINFO", sinfo)
    monkeypatch.setenv("FAKE_LOG", str(folder / "sruns"))
    return folder / "sruns"


def provisioned(folder: Path, count: int = 3, **changes: object) -> list[Target]:
    """Hosts gpu0, gpu1, ... whose probe answers every request at once with a healthy document."""
    targets = []
    for name in (f"gpu{i}" for i in range(count)):
        host = target(name, python=sys.executable, node_root=folder / name, **changes)
        probe = Path(host.probe)
        probe.parent.mkdir(parents=True)
        probe.write_text(_PROBE)
        Path(f"{probe}.json").write_bytes(document(name))
        targets.append(host)
    return targets
