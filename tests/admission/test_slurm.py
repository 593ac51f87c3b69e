"""What scontrol prints, read strictly, and calls of it that fail; tests/engines has the same with a real Slurm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gpugate.admission import Action, Decision, Memory, Standing
from gpugate.admission.scontrol import Scontrol
from gpugate.admission.slurm import Slurm
from gpugate.admission.slurm_nodes import NEW_NODE, SlurmNode, parse, standing
from gpugate.errors import AdmissionError
from gpugate.state.store import Store

RUN = "20260301T115000000000Z-abcdef"
OURS = f"gpugate: thermal.headroom FAIL (run {RUN})"
AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MARK = {"reason": OURS, "by": "root", "at": AT.isoformat()}
OUT_AND_OURS = Standing(False, removed=True, since=AT)


def printed(name: str = "gpu0", state: str = "IDLE", *more: str) -> str:
    """A node as scontrol 22.05 prints it, shortened; `more` are further lines."""
    lines = [f"NodeName={name} Arch=x86_64 CoresPerSocket=1 ", "CPUAlloc=0 CPUEfctv=4 CPUTot=4 CPULoad=0.05",
             "OS=Linux 6.1.0 #1 SMP State=DOWN Reason=no ", f"State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 ",
             "Partitions=gpu ", "BootTime=2026-03-01T10:00:00Z LastBusyTime=2026-03-01T10:01:00Z", *more]  # fmt: skip
    return "\n   ".join(lines) + "\n\n"


def read(state: str, *more: str) -> SlurmNode:
    """A node that can be read."""
    [node] = parse(printed("gpu0", state, *more)).values()
    assert isinstance(node, SlurmNode), node
    return node


def drained(reason: str = OURS, state: str = "IDLE+DRAIN", set_by: str = "root@2026-03-01T12:00:00Z") -> SlurmNode:
    """A node that is drained for a reason."""
    return read(state, f"Reason={reason} [{set_by}]" if set_by else f"Reason={reason}")


def test_nodes_are_read_whole() -> None:
    """Name, state, flags, reason, user and time are read, whatever other lines hold."""
    text = printed("gpu0", "MIXED+DRAIN+PLANNED", "Reason=fan [3] rattles [ada@2026-03-01T12:00:00Z]",
                   "Comment=State=IDLE Reason=none", "Extra=x", "ReservationName=y") + printed("gpu1")  # fmt: skip
    assert parse(text) == {
        "gpu0": SlurmNode("gpu0", "MIXED", frozenset({"DRAIN", "PLANNED"}), "fan [3] rattles", "ada", AT),
        "gpu1": SlurmNode("gpu1", "IDLE", frozenset()),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (printed(state="IDLE+HAUNTED"), "IDLE+HAUNTED, and HAUNTED says nothing"),
        (printed(state="IDLE+?"), "? says nothing"),
        (printed(state="UNKNOWN"), "UNKNOWN says nothing"),
        (printed(state="idle"), "idle says nothing"),
        (printed(state="DRAIN"), "DRAIN says nothing"),
        (printed(state="IDLE*"), "IDLE* says nothing"),
        (printed() + printed(), "names it twice"),
        (printed("gpu0", "IDLE", "State=DOWN x"), "not one state"),
        (printed("gpu0", "IDLE", "Reason=a", "Reason=b"), "at most one reason"),
        ("NodeName=gpu0 Arch=x86_64\n\n", "not one state"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str, why: str) -> None:
    """A state or flag that is not known, missing or there twice is an error of that node, never a guess."""
    [node] = parse(text).values()
    assert isinstance(node, AdmissionError)
    assert why in str(node)


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED", "IDLE+CLOUD", "IDLE+NOT_RESPONDING", "MIXED+PLANNED",
                                   "IDLE+RESERVED", "ALLOCATED+COMPLETING", "IDLE+DYNAMIC_NORM"])  # fmt: skip
def test_in_service(state: str) -> None:
    """A node that may take work is in service, whatever was remembered of it and whatever reason it still has."""
    for node in (read(state), drained(state=state)):
        for remembered in (None, MARK):
            found = standing(node, remembered)
            assert (found.inside, found.owner, found.busy, found.removed) == (True, "", "", False)


def test_own_drain() -> None:
    """A drain is gpugate's where reason, user and time are those that it wrote down: removed, since then."""
    for state in ("IDLE+DRAIN", "MIXED+DRAIN", "ALLOCATED+DRAIN+COMPLETING"):
        found = standing(drained(state=state), MARK)
        assert (found.inside, found.owner, found.busy, found.removed, found.since) == (False, "", "", True, AT)


@pytest.mark.parametrize(
    ("node", "remembered"),
    [
        (drained("fan rattles"), None),
        (drained("fan rattles"), MARK),
        (drained(f"{OURS}, and the fan"), MARK),
        (drained(f"{OURS} : Not responding"), MARK),
        (drained(OURS), None),
        (drained(OURS), {"reason": OURS}),
        (drained(OURS, set_by="ada@2026-03-01T12:00:00Z"), MARK),
        (drained(OURS, set_by="root@2026-03-01T12:00:01Z"), MARK),
        (drained(OURS, set_by=""), MARK),
        (drained(OURS, set_by=""), {"reason": OURS, "by": "", "at": ""}),
        (drained(OURS, "IDLE+FAIL"), MARK),
        (drained(OURS, "IDLE+DRAIN+FAIL"), MARK),
        (drained(OURS, "DOWN"), MARK),
        (drained(f"{NEW_NODE}; and do not touch"), None),
        (drained(NEW_NODE.upper()), None),
        (drained(NEW_NODE, "IDLE+FAIL"), None),
        (drained(NEW_NODE, set_by=""), None),
        (drained(NEW_NODE, "DOWN"), None),
        (read("IDLE+DRAIN"), MARK),
        (read("DOWN+NOT_RESPONDING", "Reason=Not responding [slurm@2026-03-01T12:00:00Z]"), None),
        (read("IDLE+DRAIN", f"Reason={OURS} [root@2026-03-01T12:00:00Z]", "       and the fan"), MARK),
    ],
)
def test_somebody_elses(node: SlurmNode, remembered: dict[str, str] | None) -> None:
    """Everything else that keeps a node out has an owner, who is named, and whom gpugate does not overrule."""
    found = standing(node, remembered)
    assert not found.inside
    assert not found.removed
    assert found.owner.startswith(f"{node.by} since 2026-" if node.by else "somebody: ")
    assert node.reason.partition("\n")[0] in found.owner


def test_hand_over_is_told() -> None:
    """Where a drain looks like gpugate's and is not, the owner's line says how to hand the node over."""
    assert f"scontrol update NodeName=gpu0 Reason='{NEW_NODE}'" in standing(drained(OURS), None).owner
    assert "scontrol" not in standing(drained("fan"), None).owner


def test_new_node() -> None:
    """A node with the mark of new nodes is nobody's, whoever set it, and was not removed."""
    found = standing(drained(NEW_NODE, set_by="ada@2026-03-01T12:00:00Z"), None)
    assert (found.inside, found.owner, found.busy, found.removed, found.since) == (False, "", "", False, None)


@pytest.mark.parametrize("flag", ["MAINTENANCE", "POWERED_DOWN", "POWERING_DOWN", "POWERING_UP", "POWER_DOWN",
                                  "POWER_UP", "REBOOT_ISSUED", "REBOOT_REQUESTED", "INVALID_REG"])  # fmt: skip
def test_not_now(flag: str) -> None:
    """A node under maintenance, in a change of power or reboot is neither taken out nor let in."""
    for node in (read(f"IDLE+{flag}"), drained(state=f"IDLE+DRAIN+{flag}")):
        found = standing(node, MARK)
        assert flag in found.busy
        assert found.owner == ""


@pytest.mark.parametrize(("state", "why"), [("DOWN+DRAIN", "DOWN"), ("IDLE+DRAIN+NOT_RESPONDING", "no answer"),
                                            ("UNKNOWN+DRAIN", "UNKNOWN")])  # fmt: skip
def test_node_that_is_gone_is_not_let_in(state: str, why: str) -> None:
    """A node of gpugate's own drain, or a new one, is not let in while it is down or does not answer."""
    for node in (drained(state=state), drained(NEW_NODE, state)):
        assert why in standing(node, MARK).busy


@dataclass
class Cluster:
    """A stand-in for scontrol on the PATH."""

    folder: Path

    def set(self, **changes: object) -> None:
        """Change what the stand-in knows."""
        file = self.folder / "nodes.json"
        world = json.loads(file.read_text()) if file.exists() else {"nodes": {}, "refused": [], "hangs": "",
                                                                    "exit": ""}  # fmt: skip
        file.write_text(json.dumps(world | changes))

    def states(self) -> dict[str, list[str]]:
        """State and reason of each node."""
        found: dict[str, list[str]] = json.loads((self.folder / "nodes.json").read_text())["nodes"]
        return found

    def calls(self) -> list[list[str]]:
        """The calls since this was asked last."""
        log = self.folder / "calls"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def memory(self) -> Memory:
        """The gate's memory."""
        return Memory(Store(self.folder / "gpugate.sqlite"))

    def backend(self, timeout_s: float = 30.0, **names: str) -> Slurm:
        """The back end of one run."""
        return Slurm(Scontrol(timeout_s), self.memory(), RUN, names, self.folder / "admission.json")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Six nodes, in service."""
    script = tmp_path / "scontrol"
    script.write_text(f"#!{sys.executable} -IS\n{Path(__file__).with_name('scontrol_stand_in.py').read_text()}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    made = Cluster(tmp_path)
    made.set(nodes={f"gpu{i}": ["IDLE", ""] for i in range(6)})
    return made


def removing(backend: Slurm, hosts: Sequence[str], *checks: str) -> list[Decision]:
    """Decisions to remove, as made on what the back end says now."""
    found = backend.standings(hosts)
    return [Decision(host, Action.REMOVE, ("hot",), stands, checks=checks or ("thermal.headroom",))
            for host, stands in found.items() if isinstance(stands, Standing)]  # fmt: skip


def admitting(backend: Slurm, hosts: Sequence[str]) -> list[Decision]:
    """Decisions to admit, as made on what the back end says now."""
    found = backend.standings(hosts)
    return [Decision(host, Action.ADMIT, ("green",), stands) for host, stands in found.items()
            if isinstance(stands, Standing)]  # fmt: skip


def test_removed_and_let_in_again(cluster: Cluster) -> None:
    """A removal drains with the check and the run, is known as gpugate's afterwards, and can be taken back."""
    hosts = ["gpu0", "gpu1"]
    backend = cluster.backend()
    assert backend.carry_out(removing(backend, hosts)) == {"gpu0": None, "gpu1": None}
    assert cluster.states()["gpu1"] == ["IDLE+DRAIN", OURS]
    again = cluster.backend()
    for stands in again.standings(hosts).values():
        assert isinstance(stands, Standing)
        assert (stands.removed, stands.since, stands.owner) == (True, AT, "")
    assert again.carry_out(admitting(again, hosts)) == {"gpu0": None, "gpu1": None}
    assert cluster.states()["gpu1"] == ["IDLE", ""]
    assert cluster.memory().owned("slurm") == {}


def test_one_call_for_many(cluster: Cluster) -> None:
    """A thousand nodes with one cause are read, drained and read by one call each, two causes need one more; and as
    many are let in by three calls."""
    names = [f"node{i:04}" for i in range(1000)]
    cluster.set(nodes={name: ["IDLE", ""] for name in names})
    backend = cluster.backend()
    due = removing(backend, names[:600]) + removing(backend, names[600:], "errors.ecc", "errors.xid")
    cluster.calls()
    assert set(backend.carry_out(due).values()) == {None}
    assert [call[0] for call in cluster.calls()] == ["--all", "update", "update", "--all"]
    assert cluster.states()["node0999"][1] == f"gpugate: errors.ecc FAIL, errors.xid FAIL (run {RUN})"
    back = cluster.backend()
    assert set(back.carry_out(admitting(back, names)).values()) == {None}
    assert [call[0] for call in cluster.calls()] == ["--all", "--all", "update", "--all"]


def test_arguments_stay_short(cluster: Cluster) -> None:
    """Names that do not fit into one argument are shared out among calls."""
    names = [f"node{i:03}-{'x' * 200}" for i in range(600)]
    cluster.set(nodes={name: ["IDLE", ""] for name in names})
    backend = cluster.backend()
    due = removing(backend, names)
    cluster.calls()
    assert set(backend.carry_out(due).values()) == {None}
    calls = cluster.calls()
    assert [call[0] for call in calls] == ["--all", "update", "update", "update", "--all"]
    assert max(len(part) for call in calls for part in call) < 100_000


def test_partial_failure(cluster: Cluster) -> None:
    """A node that Slurm refuses fails alone and says why; those after it in the same call are done."""
    backend = cluster.backend()
    hosts = [f"gpu{i}" for i in range(6)]
    due = removing(backend, hosts)
    cluster.set(refused=["gpu2"])
    results = backend.carry_out(due)
    assert {host for host, error in results.items() if error is None} == set(hosts) - {"gpu2"}
    assert "Invalid node name specified" in str(results["gpu2"])
    assert cluster.states()["gpu2"] == ["IDLE", ""]
    assert cluster.states()["gpu5"] == ["IDLE+DRAIN", OURS]
    assert [*cluster.memory().owned("slurm").values()].count(json.dumps({"reason": OURS})) == 1


def test_changed_meanwhile(cluster: Cluster) -> None:
    """A node that somebody drained, changed or undrained since the decision is left as it is, and the others done."""
    backend = cluster.backend()
    due = removing(backend, ["gpu0", "gpu1"])
    cluster.set(nodes=cluster.states() | {"gpu0": ["IDLE+DRAIN", "fan"]})
    results = backend.carry_out(due)
    assert "changed while this run decided" in str(results["gpu0"])
    assert results["gpu1"] is None
    assert cluster.states()["gpu0"] == ["IDLE+DRAIN", "fan"]

    later = cluster.backend()
    back = admitting(later, ["gpu1"])
    cluster.set(nodes=cluster.states() | {"gpu1": ["IDLE+DRAIN", "mine now"]})
    assert "changed while this run decided" in str(later.carry_out(back)["gpu1"])
    assert cluster.states()["gpu1"] == ["IDLE+DRAIN", "mine now"]


def test_two_runs_that_decided_the_same(cluster: Cluster) -> None:
    """Of two runs that both decided to remove, one does, the other refuses, and the drain stays known as gpugate's."""
    first, second = cluster.backend(), cluster.backend()
    one, other = removing(first, ["gpu0"]), removing(second, ["gpu0"])
    assert first.carry_out(one) == {"gpu0": None}
    assert "changed while" in str(second.carry_out(other)["gpu0"])
    stands = second.standings(["gpu0"])["gpu0"]
    assert isinstance(stands, Standing)
    assert stands.removed


def test_no_answer(cluster: Cluster) -> None:
    """A scontrol that hangs or fails is an error for everybody, before and while decisions are carried out."""
    backend = cluster.backend(timeout_s=1.0)
    due = removing(backend, ["gpu0", "gpu1"])
    cluster.set(hangs="show")
    for failing in (lambda: backend.standings(["gpu0"]), lambda: backend.carry_out(due)):
        with pytest.raises(AdmissionError, match="no answer within 1 s"):
            failing()
    cluster.set(hangs="", exit="slurm_load_node: Unable to contact slurm controller (connect failure)")
    with pytest.raises(AdmissionError, match="Unable to contact slurm controller"):
        backend.carry_out(due)
    assert cluster.memory().owned("slurm") == {}


def test_no_answer_to_a_change(cluster: Cluster) -> None:
    """What is looked at afterwards counts, not whether the call came back: drained is drained, and gpugate's."""
    backend = cluster.backend(timeout_s=1.0)
    due = removing(backend, ["gpu0", "gpu1"])
    cluster.set(hangs="update")
    assert backend.carry_out(due) == {"gpu0": None, "gpu1": None}
    assert cluster.states()["gpu1"] == ["IDLE+DRAIN", OURS]
    assert json.loads(cluster.memory().owned("slurm")["gpu1"]) == MARK


def test_nobody_can_look_afterwards(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nodes cannot be read after the change, each is an error, and no drain is taken for gpugate's."""
    backend = cluster.backend(timeout_s=5.0)
    due = removing(backend, ["gpu0", "gpu1"])
    change = Scontrol.update

    def then_gone(self: Scontrol, names: Sequence[str], *settings: str) -> dict[str, AdmissionError]:
        failed = change(self, names, *settings)
        cluster.set(exit="slurm_load_node: Unable to contact slurm controller (connect failure)")
        return failed

    monkeypatch.setattr(Scontrol, "update", then_gone)
    results = backend.carry_out(due)
    for error in results.values():
        assert "nobody knows what became of it" in str(error)
    cluster.set(exit="")
    stands = cluster.backend().standings(["gpu0"])["gpu0"]
    assert isinstance(stands, Standing)
    assert "not as gpugate remembers its own drain" in stands.owner


def test_no_scontrol(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller without Slurm's commands says so."""
    monkeypatch.setenv("PATH", str(cluster.folder / "empty"))
    with pytest.raises(AdmissionError, match="where Slurm's commands are"):
        cluster.backend().standings(["gpu0"])


def test_names(cluster: Cluster) -> None:
    """A host is found by gpugate_node_name, its name, or that without its domain; two hosts of one node, unknown
    ones, one that cannot be read, and a node called ALL are errors."""
    cluster.set(nodes=cluster.states() | {"n7": ["IDLE", ""], "odd": ["ODD", ""], "ALL": ["IDLE", ""]})
    backend = cluster.backend(seven="n7", gpu1="nothing")
    found = backend.standings(
        ["seven", "gpu0.example.org", "gpu1", "stranger", "odd", "gpu3", "gpu3.example.org", "ALL"]
    )
    fine = {host for host, stands in found.items() if isinstance(stands, Standing)}
    assert fine == {"seven", "gpu0.example.org"}
    assert "no node is called nothing" in str(found["gpu1"])
    assert "set gpugate_node_name" in str(found["stranger"])
    assert "ODD says nothing to gpugate" in str(found["odd"])
    assert "gpu3 and gpu3.example.org are both the node gpu3" in str(found["gpu3.example.org"])
    assert isinstance(found["ALL"], AdmissionError)


def test_reason_is_one_short_plain_line(cluster: Cluster) -> None:
    """However many checks failed, the reason has at most 250 plain characters, and ends with the run."""
    backend = cluster.backend()
    checks = [f"family{i}.check-of-a-site" for i in range(40)]
    backend.carry_out(removing(backend, ["gpu0"], *checks) + removing(backend, ["gpu1"], 'odd."ly\nnämed'))
    states = cluster.states()
    assert len(states["gpu0"][1]) <= 250
    assert states["gpu0"][1].startswith("gpugate: family0.check-of-a-site FAIL, family1")
    assert states["gpu0"][1].endswith(f" (run {RUN})")
    assert states["gpu1"][1] == f"gpugate: odd.?ly?n?med FAIL (run {RUN})"


def test_scribbled_store(cluster: Cluster) -> None:
    """A record that is none of gpugate's makes the drain somebody else's."""
    backend = cluster.backend()
    backend.carry_out(removing(backend, ["gpu0", "gpu1"]))
    cluster.memory().own("slurm", {"gpu0": "{", "gpu1": "[]"}, AT)
    for stands in cluster.backend().standings(["gpu0", "gpu1"]).values():
        assert isinstance(stands, Standing)
        assert "root since" in stands.owner
