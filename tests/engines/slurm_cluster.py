"""A real Slurm on this machine: munged, slurmctld and one slurmd a node, in a folder and on ports of their own.

    with cluster(["gpu0", "gpu1"]) as slurm:
        slurm.run("scontrol", "update", "NodeName=gpu1", "State=DRAIN", "Reason=fan")

Everything listens on 127.0.0.1 only and is ended by its pid. Nodes are told apart by `slurmd -N`. Nodes with GPUs have
device files of their own, which are /dev/null.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DEADLINE_S = 240.0  # a safety only
NEEDED = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "srun": "slurm-wlm", "sinfo": "slurm-wlm"}
# cons_tres with cores, so that several jobs share a node; linuxproc and no cgroups, so that any container will do.
CONFIGURATION = """\
ClusterName=gpugate
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=300
KillWait=2
MessageTimeout=5
EpilogMsgTime=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
"""


@dataclass
class Cluster:
    """A cluster that is up. `environment` is what its commands need."""

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; what it printed. An AssertionError where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state(self, node: str) -> str:
        """What sinfo says of a node."""
        return self.run("sinfo", "--noheader", f"--nodes={node}", "--format=%T").strip()

    def idle(self, *nodes: str) -> None:
        """Wait until these nodes are free of jobs and in service."""
        self.until(lambda: all(self.state(node) == "idle" for node in nodes))

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground."""
        with (self.folder / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self.start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd, as a power cut does: Slurm does not know yet."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something to become true; an AssertionError with the logs' ends when it never does."""
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(self.folder.glob("*.[lo]*"))
        )

    def close(self) -> None:
        """End all jobs and daemons."""
        for job in self.run("squeue", "--noheader", "--format=%A").split():
            subprocess.run(["scancel", "--signal=KILL", job], env=self.environment, timeout=DEADLINE_S, check=False)
        for name in [*sorted(set(self.daemons) - {"slurmctld", "munged"}), "slurmctld", "munged"]:
            daemon = self.daemons.get(name)
            if daemon is not None:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def missing() -> str:
    """What this machine lacks for a cluster, as a sentence; empty where nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = sorted({package for name, package in NEEDED.items() if shutil.which(name, path=path) is None})
    if packages:
        return f"these tests run a real Slurm, which this machine lacks: apt-get install {' '.join(packages)}"
    return "" if os.geteuid() == 0 else "these tests run a real Slurm as root: run them as root"


@contextmanager
def cluster(
    nodes: Sequence[str],
    *,
    gpus: int = 0,
    state: str = "State=UNKNOWN",
    started: Sequence[str] | None = None,
    settings: str = "",
) -> Iterator[Cluster]:
    """Bring a cluster of these nodes up, in one partition `gpu`; ended with everything that runs on it.

    Each node has `gpus` GPUs and is written into slurm.conf in `state`; `started` are those that get a slurmd (None:
    all), which become idle where `state` allows it. `settings` are further lines of slurm.conf.
    """
    with ExitStack() as stack:
        # Short, as a socket's path may have 108 bytes; open to all, as munge wants its socket's folder.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        folder.chmod(0o755)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(64))
        started = nodes if started is None else started
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(started))
        port_of = dict(zip(started, ports[1:], strict=True))
        lines = [CONFIGURATION.format(folder=folder, host=host, ports=ports), settings]
        gres = _gpus(folder, gpus) if gpus else ""
        lines.append("GresTypes=gpu\n" if gpus else "")
        for node in nodes:
            where = f"NodeHostName={host} NodeAddr=127.0.0.1 Port={port_of.get(node, 1)}"
            lines.append(f"NodeName={node} {where} CPUs=4 RealMemory=1000 {gres}{state}\n")
        lines.append(f"PartitionName=gpu Nodes={','.join(nodes)} Default=YES MaxTime=INFINITE State=UP\n")
        (folder / "slurm.conf").write_text("".join(lines))
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        up = Cluster(folder, {"PATH": path, "SLURM_CONF": str(folder / "slurm.conf")})
        stack.callback(up.close)
        files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid",
                 "log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}  # fmt: skip
        up.start("munged", "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()))
        up.until((folder / "munge.socket").exists)
        up.start("slurmctld", "slurmctld", "-D", "-i", "-c")
        for node in started:
            up.start_node(node)
        up.until(lambda: _pings(up))
        if state == "State=UNKNOWN":
            up.idle(*started)
        yield up


def _gpus(folder: Path, count: int) -> str:
    """What a node's line in slurm.conf says of its GPUs; makes their files and gres.conf."""
    for index in range(count):
        os.mknod(folder / f"card{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (folder / "gres.conf").write_text(f"Name=gpu Type=h100 File={folder}/card[0-{count - 1}]\n")
    return f"Gres=gpu:h100:{count} "


def _pings(up: Cluster) -> bool:
    done = subprocess.run(["scontrol", "ping"], env=up.environment, capture_output=True, text=True, check=False)
    return done.returncode == 0 and "UP" in done.stdout


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
