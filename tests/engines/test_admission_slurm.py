"""The Slurm back end on a real Slurm with GPUs: whose drain is whose, jobs that run, what fails, and how many calls."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from gated import POLICY, actions, report_on
from gpugate.admission import Action, Audit, Carried, Decision, Limits, Memory, Node, Present, Standing, carry
from gpugate.admission.scontrol import Scontrol
from gpugate.admission.slurm import Slurm
from gpugate.admission.slurm_nodes import NEW_NODE
from gpugate.errors import AdmissionError
from gpugate.report.reader import Report
from gpugate.state.store import Store
from slurm_cluster import Cluster, cluster

ALL = Limits(fleet_percent=100, domain_percent=100, driver_percent=100, cause_percent=100, at_least=1000)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """Four nodes of two GPUs, which are registered as new, as docs/slurm.md says."""
    nodes = [f"gpu{i}" for i in range(4)]
    with cluster(nodes, gpus=2, state="State=DRAIN") as up:
        up.run("scontrol", "update", f"NodeName={','.join(nodes)}", f"Reason={NEW_NODE}")
        up.until(lambda: up.run("scontrol", "show", "node").count("State=IDLE+DRAIN ") == len(nodes))
        yield up


@dataclass
class Gate:
    """The gate of one controller, with a state store of its own. `scontrol` counts its calls."""

    slurm: Cluster
    folder: Path
    timeout_s: float = 30.0

    def run(self, hosts: Sequence[str], red: Sequence[str] = (), *, check: bool = False, report: Report | None = None,
            limits: Limits = ALL) -> Carried:  # fmt: skip
        """Decide by a report of now, in which `red` have a GPU without headroom, and carry it out."""
        report = report or report_on(hosts, red)
        memory, audit = self.memory(check), Audit(self.folder / "audit.jsonl", report, "ada")
        present = [Node(host, POLICY, Present("m-1", "b-1", frozenset({f"GPU-{host}"}))) for host in hosts]
        now = datetime.now().astimezone()
        return carry(report, present, self.backend(report, check), audit, memory, now, limits=limits, check=check)

    def backend(self, report: Report, check: bool = False) -> Slurm:
        """The back end of one run."""
        scontrol = Scontrol(self.timeout_s)
        return Slurm(scontrol, self.memory(check), report.run_id, {}, self.folder / "admission.json")

    def memory(self, check: bool = False) -> Memory:
        """What the gate remembers."""
        return Memory(Store(self.folder / "gpugate.sqlite"), look_only=check)

    def calls(self) -> list[str]:
        """The calls of scontrol since this was asked last: their first words."""
        log = self.folder / "calls"
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def gate(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate of this test's own."""
    return gate_of(slurm, tmp_path, monkeypatch)


def gate_of(slurm: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate of this cluster; before the real scontrol on its PATH stands one that counts."""
    real = shutil.which("scontrol", path=slurm.environment["PATH"])
    commands = folder / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$1 $3" >> {folder}/calls\nexec {real} "$@"\n')
    (commands / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{slurm.environment['PATH']}")
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return Gate(slurm, folder)


def why(carried: Carried, host: str) -> str:
    """The reasons of a decision."""
    [decision] = [each for each in carried.decisions if each.host == host]
    return "; ".join(decision.reasons)


def shown(slurm: Cluster, node: str) -> str:
    """The reason of a node, as scontrol prints it."""
    lines = slurm.run("scontrol", "show", "node", node).splitlines()
    return "".join(line.strip() for line in lines if line.startswith("   Reason="))


def inside(slurm: Cluster, *nodes: str) -> None:
    """Put nodes into service by hand, and wait until they answer."""
    for node in nodes:
        if slurm.state(node).startswith(("drain", "down")):
            slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    slurm.idle(*nodes)


def drain(slurm: Cluster, node: str, reason: str) -> None:
    """Drain a node by hand."""
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}")


def test_new_nodes_come_in(gate: Gate) -> None:
    """Of the nodes that are registered as new, the green one is let in and runs a job on its GPUs; the red one
    stays drained with the mark."""
    slurm = gate.slurm
    assert shown(slurm, "gpu0").startswith(f"Reason={NEW_NODE} [root@")
    carried = gate.run(["gpu0", "gpu1"], red=["gpu1"])
    assert actions(carried) == {"gpu0": "admit", "gpu1": "stay_out"}
    slurm.idle("gpu0")
    assert shown(slurm, "gpu0") == ""
    assert slurm.state("gpu1") == "drained"
    assert "2" in slurm.run("srun", "--nodelist=gpu0", "--gres=gpu:h100:2", "printenv", "SLURM_GPUS_ON_NODE")
    assert actions(gate.run(["gpu0"])) == {"gpu0": "keep"}


def test_removed_while_a_job_runs(gate: Gate) -> None:
    """A broken node drains with check and run as its reason, its job runs on; when green, it comes back."""
    slurm = gate.slurm
    inside(slurm, "gpu0")
    job = slurm.run("sbatch", "--parsable", "--nodelist=gpu0", "--gres=gpu:1", "--output=/dev/null", "--wrap=sleep 600")
    running = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job.strip()}"]
    slurm.until(lambda: slurm.run(*running).strip() == "RUNNING")
    report = report_on(["gpu0"], red=["gpu0"])
    assert actions(gate.run(["gpu0"], report=report)) == {"gpu0": "remove"}
    assert shown(slurm, "gpu0").startswith(f"Reason=gpugate: thermal.headroom FAIL (run {report.run_id}) [root@")
    assert slurm.state("gpu0") == "draining"
    assert slurm.run(*running).strip() == "RUNNING"
    assert actions(gate.run(["gpu0"], red=["gpu0"])) == {"gpu0": "stay_out"}
    slurm.run("scancel", job.strip())
    slurm.until(lambda: slurm.state("gpu0") == "drained")
    assert actions(gate.run(["gpu0"])) == {"gpu0": "admit"}
    slurm.idle("gpu0")


def test_report_of_before_the_drain(gate: Gate) -> None:
    """A green report that was begun before the node was taken out does not let it in again."""
    inside(gate.slurm, "gpu0")
    green = report_on(["gpu0"])
    time.sleep(1.1)  # Slurm counts whole seconds
    gate.run(["gpu0"], red=["gpu0"])
    [decision] = gate.run(["gpu0"], report=green).decisions
    assert decision.action is Action.STAY_OUT
    assert any("before the node was taken out" in reason for reason in decision.reasons)


def test_drained_by_a_person(gate: Gate) -> None:
    """A node that somebody drained stays drained, green or red, and the decision names who, since when and why."""
    inside(gate.slurm, "gpu1")
    drain(gate.slurm, "gpu1", "fan | 3 rattles")
    for red in ([], ["gpu1"]):
        carried = gate.run(["gpu1"], red=red)
        assert actions(carried) == {"gpu1": "stay_out"}
        assert "not gpugate's to let in: root since 20" in why(carried, "gpu1")
        assert "fan | 3 rattles" in why(carried, "gpu1")
    assert shown(gate.slurm, "gpu1").startswith("Reason=fan | 3 rattles [root@")


def test_reason_changed_by_a_person(gate: Gate) -> None:
    """Whoever changes the reason of gpugate's drain owns the node: green does not bring it back until it is handed
    over by the mark of new nodes."""
    slurm = gate.slurm
    inside(slurm, "gpu1")
    gate.run(["gpu1"], red=["gpu1"])
    slurm.run("scontrol", "update", "NodeName=gpu1", "Reason=ours, and the fan is gone")
    carried = gate.run(["gpu1"])
    assert actions(carried) == {"gpu1": "stay_out"}
    assert "ours, and the fan is gone" in why(carried, "gpu1")
    assert slurm.state("gpu1") == "drained"
    slurm.run("scontrol", "update", "NodeName=gpu1", f"Reason={NEW_NODE}")
    assert actions(gate.run(["gpu1"])) == {"gpu1": "admit"}
    slurm.idle("gpu1")


def test_drained_again_with_the_same_words(gate: Gate) -> None:
    """Who undrains gpugate's drain and drains with the very same reason is its owner: the time tells."""
    slurm = gate.slurm
    inside(slurm, "gpu1")
    report = report_on(["gpu1"], red=["gpu1"])
    gate.run(["gpu1"], report=report)
    time.sleep(1.1)
    inside(slurm, "gpu1")
    drain(slurm, "gpu1", f"gpugate: thermal.headroom FAIL (run {report.run_id})")
    carried = gate.run(["gpu1"])
    assert actions(carried) == {"gpu1": "stay_out"}
    assert "changed since" in why(carried, "gpu1")


def test_undrained_by_a_person(gate: Gate) -> None:
    """A node that a person brought back is removed again by the next red report, and comes back when green."""
    slurm = gate.slurm
    inside(slurm, "gpu1")
    gate.run(["gpu1"], red=["gpu1"])
    inside(slurm, "gpu1")
    assert actions(gate.run(["gpu1"], red=["gpu1"])) == {"gpu1": "remove"}
    assert actions(gate.run(["gpu1"])) == {"gpu1": "admit"}
    slurm.idle("gpu1")


def test_drain_that_is_not_in_the_store(gate: Gate) -> None:
    """A drain of gpugate's that its state store does not hold is somebody's, and stays; the line says how to hand the
    node over."""
    inside(gate.slurm, "gpu1")
    gate.run(["gpu1"], red=["gpu1"])
    gate.memory().disown("slurm", ["gpu1"])
    carried = gate.run(["gpu1"])
    assert actions(carried) == {"gpu1": "stay_out"}
    assert f"scontrol update NodeName=gpu1 Reason='{NEW_NODE}'" in why(carried, "gpu1")


def test_node_that_is_down(gate: Gate) -> None:
    """A node that is down is never brought back, neither after gpugate's own drain nor without one."""
    slurm = gate.slurm
    inside(slurm, "gpu2", "gpu3")
    gate.run(["gpu2"], red=["gpu2"])
    for node in ("gpu2", "gpu3"):
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=no power")
    slurm.run("scontrol", "update", "NodeName=gpu2", f"Reason={NEW_NODE}")
    try:
        carried = gate.run(["gpu2", "gpu3"])
        assert actions(carried) == {"gpu2": "stay_out", "gpu3": "stay_out"}
        assert "not now: it is DOWN in Slurm" in why(carried, "gpu2")
        assert "root since" in why(carried, "gpu3")
        assert slurm.run("scontrol", "show", "node", "gpu[2-3]").count("State=DOWN") == 2
    finally:
        inside(slurm, "gpu2", "gpu3")


def test_node_whose_slurmd_is_gone(gate: Gate) -> None:
    """A drained node that does not answer slurmctld is not let in, however green it is."""
    slurm = gate.slurm
    inside(slurm, "gpu3")
    gate.run(["gpu3"], red=["gpu3"])
    slurm.kill_node("gpu3")
    slurm.run("scontrol", "update", "NodeName=gpu3", "State=NoResp")
    carried = gate.run(["gpu3"])
    slurm.start_node("gpu3")
    assert actions(carried) == {"gpu3": "stay_out"}
    assert "no answer from its slurmd" in why(carried, "gpu3")
    slurm.until(lambda: "NOT_RESPONDING" not in slurm.run("scontrol", "show", "node", "gpu3"))
    assert actions(gate.run(["gpu3"])) == {"gpu3": "admit"}
    slurm.idle("gpu3")


def test_maintenance_reservation(gate: Gate) -> None:
    """In a maintenance reservation, a red node is held and a green one that gpugate took out is not let in."""
    slurm = gate.slurm
    inside(slurm, "gpu2", "gpu3")
    gate.run(["gpu3"], red=["gpu3"])
    slurm.run("scontrol", "create", "reservation", "ReservationName=work", "Users=root", "Nodes=gpu[2-3]",
              "StartTime=now", "Duration=60", "Flags=MAINT,IGNORE_JOBS")  # fmt: skip
    try:
        slurm.until(lambda: "MAINTENANCE" in slurm.run("scontrol", "show", "node", "gpu2"))
        carried = gate.run(["gpu2", "gpu3"], red=["gpu2"])
        assert actions(carried) == {"gpu2": "hold", "gpu3": "stay_out"}
        assert "maintenance reservation" in why(carried, "gpu2")
        assert "maintenance reservation" in why(carried, "gpu3")
    finally:
        slurm.run("scontrol", "delete", "ReservationName=work")
    slurm.until(lambda: "MAINTENANCE" not in slurm.run("scontrol", "show", "node", "gpu[2-3]"))
    assert actions(gate.run(["gpu2", "gpu3"], red=["gpu2"])) == {"gpu2": "remove", "gpu3": "admit"}


def test_two_runs_at_once(gate: Gate) -> None:
    """Two runs that decided the same at the same time drain once; what they drained is gpugate's to bring back."""
    slurm = gate.slurm
    hosts = ["gpu0", "gpu2"]
    inside(slurm, *hosts)
    decided = []
    for _ in range(2):
        report = report_on(hosts, red=hosts)
        backend = gate.backend(report)
        due = [Decision(host, Action.REMOVE, ("hot",), stands, checks=("thermal.headroom",))
               for host, stands in backend.standings(hosts).items() if isinstance(stands, Standing)]  # fmt: skip
        decided.append((backend, due))
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda each: each[0].carry_out(each[1]), decided))
    for host in hosts:
        assert [result[host] for result in results].count(None) == 1, results
        assert any("changed while this run decided" in str(result[host]) for result in results)
    assert actions(gate.run(hosts)) == dict.fromkeys(hosts, "admit")
    slurm.idle(*hosts)


def test_call_that_slurm_refuses_in_part(gate: Gate) -> None:
    """Slurm stops a call at a node that it does not know; all others get their drain by finer calls."""
    inside(gate.slurm, "gpu0", "gpu2", "gpu3")
    gate.calls()
    names = ["gpu0", "nobody", "gpu2", "gpu3"]
    failed = Scontrol(30.0).update(names, "State=DRAIN", f"Reason={NEW_NODE}")
    assert list(failed) == ["nobody"]
    assert "Invalid node name" in str(failed["nobody"])
    assert {gate.slurm.state(node) for node in ("gpu0", "gpu2", "gpu3")} == {"drained"}
    assert 2 <= len(gate.calls()) <= 7


def test_check_mode(gate: Gate) -> None:
    """--check says what would be done to each node; it makes no change in Slurm, and writes no file."""
    slurm = gate.slurm
    inside(slurm, "gpu0", "gpu2")
    drain(slurm, "gpu2", NEW_NODE)
    before = slurm.run("scontrol", "show", "node", "gpu[0,2]", "--oneliner").count("State=IDLE+DRAIN")
    carried = gate.run(["gpu0", "gpu2"], red=["gpu0"], check=True)
    assert actions(carried) == {"gpu0": "remove", "gpu2": "admit"}
    assert {call.split()[0] for call in gate.calls()} == {"--all"}
    assert slurm.state("gpu0") == "idle"
    assert slurm.state("gpu2") == "drained"
    assert slurm.run("scontrol", "show", "node", "gpu[0,2]", "--oneliner").count("State=IDLE+DRAIN") == before == 1
    assert {path.name for path in gate.folder.iterdir()} == {"bin"}


def test_slurmctld_that_hangs(gate: Gate) -> None:
    """A slurmctld that does not answer is an error within the deadline, and nobody is admitted."""
    slurm = gate.slurm
    drain(slurm, "gpu2", NEW_NODE)
    controller = slurm.daemons["slurmctld"]
    controller.send_signal(signal.SIGSTOP)
    try:
        hasty = replace(gate, timeout_s=2.0)
        with pytest.raises(AdmissionError, match=r"got no answer within 2 s .*is slurmctld up"):
            hasty.run(["gpu2"])
    finally:
        controller.send_signal(signal.SIGCONT)
    assert slurm.state("gpu2") == "drained"


def test_slurmctld_that_is_gone(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens at slurmctld's port, it is an error within the deadline too."""
    conf = gate.folder / "slurm.conf"
    lines = Path(gate.slurm.environment["SLURM_CONF"]).read_text().splitlines()
    conf.write_text("\n".join("SlurmctldPort=9" if line.startswith("SlurmctldPort=") else line for line in lines))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(AdmissionError, match=r"no answer within 3 s|Unable to contact slurm controller"):
        replace(gate, timeout_s=3.0).run(["gpu2"])


@pytest.mark.parametrize("how", ["restart", "reconfigure"])
def test_own_drain_after(gate: Gate, how: str) -> None:
    """A drain is known as gpugate's after slurmctld was restarted or read its configuration again."""
    slurm = gate.slurm
    inside(slurm, "gpu0")
    assert actions(gate.run(["gpu0"], red=["gpu0"])) == {"gpu0": "remove"}
    ours = shown(slurm, "gpu0")
    if how == "restart":
        restart(slurm)
    else:
        slurm.run("scontrol", "reconfigure")
    assert shown(slurm, "gpu0").startswith(ours.partition(" [")[0])
    slurm.until(lambda: "State=IDLE+DRAIN " in slurm.run("scontrol", "show", "node", "gpu0"))
    assert actions(gate.run(["gpu0"])) == {"gpu0": "admit"}


def test_drained_by_slurm_conf(gate: Gate) -> None:
    """A node in service that slurm.conf still has with State=DRAIN is drained by a restart of slurmctld, without a
    reason: gpugate does not take that for its own drain."""
    slurm = gate.slurm
    inside(slurm, "gpu1")
    restart(slurm)
    slurm.until(lambda: "State=IDLE+DRAIN " in slurm.run("scontrol", "show", "node", "gpu1"))
    carried = gate.run(["gpu1"])
    assert actions(carried) == {"gpu1": "stay_out"}
    assert "somebody: DRAIN: no reason given" in why(carried, "gpu1")


def restart(slurm: Cluster) -> None:
    """End slurmctld and start it again, as an upgrade does; it keeps its state."""
    controller = slurm.daemons.pop("slurmctld")
    controller.send_signal(signal.SIGTERM)
    controller.wait(60)
    slurm.start("slurmctld", "slurmctld", "-D")
    ping = ["scontrol", "ping"]
    slurm.until(lambda: "UP" in subprocess.run(ping, env=slurm.environment, capture_output=True, text=True,
                                               check=False).stdout)  # fmt: skip


def test_reason_in_slurm_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark of new nodes that comes from slurm.conf is nobody's word: after a restart it stands where a person's
    reason stood, and the node stays drained."""
    with cluster(["gpu0"], state=f'State=DRAIN Reason="{NEW_NODE}"', started=[]) as small:
        gate = gate_of(small, tmp_path, monkeypatch)
        drain(small, "gpu0", "fan rattles")
        assert "fan rattles" in why(gate.run(["gpu0"]), "gpu0")
        restart(small)
        assert shown(small, "gpu0") == f"Reason={NEW_NODE}"
        carried = gate.run(["gpu0"])
        assert actions(carried) == {"gpu0": "stay_out"}
        assert "slurm.conf's reason hides whose drain it is" in why(carried, "gpu0")


def test_a_thousand_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand nodes are decided on and drained by five calls of scontrol, and known as gpugate's afterwards."""
    names = [f"node{i:04}" for i in range(1000)]
    with cluster(names, gpus=1, state='State=DOWN Reason="no slurmd"', started=[]) as big:
        big.run("scontrol", "update", f"NodeName={','.join(names)}", "State=RESUME")
        gate = gate_of(big, tmp_path, monkeypatch)
        report = report_on(names, red=names)
        gate.calls()
        begin = time.monotonic()
        carried = gate.run(names, report=report)
        took = time.monotonic() - begin
        print(f"1000 nodes: decided on and drained in {took:.1f} s")
        assert set(actions(carried).values()) == {"remove"}
        assert [call.split()[0] for call in gate.calls()] == ["--all", "--all", "update", "--all"]
        states = set(big.run("sinfo", "--noheader", "--Node", "--format=%T|%E").splitlines())
        assert states == {f"drained*|gpugate: thermal.headroom FAIL (run {report.run_id})"}
        found = gate.backend(report).standings(names).values()
        assert {isinstance(stands, Standing) and stands.removed and not stands.owner for stands in found} == {True}
