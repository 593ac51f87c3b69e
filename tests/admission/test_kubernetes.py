"""The Kubernetes back end over the official client, against a small API server on loopback."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import report
from fake_apiserver import FakeApiServer, serving, taint
from gpugate.admission import Action, Decision, Memory, Standing, open_backend
from gpugate.admission.kubernetes import Kubernetes
from gpugate.admission.kubernetes_api import Api
from gpugate.admission.site import Run
from gpugate.admission.variables import settle
from gpugate.errors import AdmissionError
from gpugate.state.store import Store

NEW, REMOVED = "gpugate/unvalidated=new:NoSchedule", "gpugate/unvalidated=removed:NoSchedule"
POOL = "nvidia.com/gpu=present:NoSchedule"
RUN = "20260301T115000000000Z-abcdef"
NODES = "/api/v1/nodes"


@pytest.fixture
def fake() -> Iterator[FakeApiServer]:
    """A cluster without Nodes."""
    with serving() as server:
        yield server


Opened = Callable[..., Kubernetes]


@pytest.fixture
def gate(fake: FakeApiServer, tmp_path: Path) -> Opened:
    """Opens the back end for one run."""

    def opened(timeout_s: float = 30.0, *, cordon: bool = False, names: dict[str, str] | None = None) -> Kubernetes:
        api = Api(str(fake.kubeconfig(tmp_path / "kubeconfig")), "", timeout_s)
        return Kubernetes(api, RUN, names or {}, pool_taints=("nvidia.com/gpu",), cordon=cordon)

    return opened


def outside(uid: str) -> Standing:
    """Where a node stands that is out because it is new; its Node has that uid."""
    return Standing(False, token=uid)


def stands(backend: Kubernetes, host: str = "gpu0") -> Standing:
    """Where a node stands; it has to be known."""
    found = backend.standings([host])[host]
    assert isinstance(found, Standing), found
    return found


def decided(backend: Kubernetes, action: Action, host: str = "gpu0", **changes: Any) -> Decision:
    """A decision made on what the back end says."""
    known: dict[str, Any] = {"checks": ("thermal.headroom",) if action is Action.REMOVE else (),
                             "healthy": action in (Action.ADMIT, Action.KEEP)}  # fmt: skip
    return Decision(host, action, ("because of this",), stands(backend, host), **known | changes)


def problem_of(backend: Kubernetes, decision: Decision) -> str:
    """Why a decision could not be carried out; it has to be that."""
    problem = backend.carry_out([decision])[decision.host]
    assert problem is not None
    return str(problem)


def admit(backend: Kubernetes, host: str = "gpu0") -> None:
    """Let a node in."""
    assert backend.carry_out([decided(backend, Action.ADMIT, host)]) == {host: None}
    assert backend.tell([]) == {}


def remove(backend: Kubernetes, host: str = "gpu0") -> None:
    """Take a node out."""
    assert backend.carry_out([decided(backend, Action.REMOVE, host)]) == {host: None}
    assert backend.tell([]) == {}


def test_new_node_comes_in(fake: FakeApiServer, gate: Opened) -> None:
    """A node that registered with the taint is outside and new; admitted, it loses that taint and nothing else."""
    fake.register("gpu0", POOL, NEW, "spare=yes:PreferNoSchedule")
    backend = gate()
    assert stands(backend) == outside("uid-1")
    admit(backend)
    assert fake.taints("gpu0") == [POOL, "spare=yes:PreferNoSchedule"]
    labels, notes = (fake.nodes["gpu0"]["metadata"][part] for part in ("labels", "annotations"))
    assert labels == {"kubernetes.io/hostname": "gpu0", "gpugate/state": "admitted"}
    assert notes.pop("gpugate/since").startswith("20")
    assert notes == {"node.alpha.kubernetes.io/ttl": "0", "gpugate/run": RUN}
    assert stands(gate()).inside
    shown = fake.condition("gpu0")
    assert (shown["status"], shown["reason"]) == ("True", "ChecksGreen")
    assert shown["message"] == f"admit by run {RUN}: because of this"
    assert fake.condition("gpu0", "Ready")["message"] == "kubelet is posting ready status"


def test_removed_and_back(fake: FakeApiServer, gate: Opened) -> None:
    """A removed node has the taint with check, run and time; those are gone when it is let in again."""
    fake.register("gpu0", POOL)
    remove(gate())
    assert fake.taints("gpu0") == [POOL, REMOVED]
    notes = fake.nodes["gpu0"]["metadata"]["annotations"]
    assert (notes["gpugate/check"], notes["gpugate/run"]) == ("thermal.headroom", RUN)
    assert fake.nodes["gpu0"]["metadata"]["labels"]["gpugate/state"] == "removed"
    assert (fake.condition("gpu0")["status"], fake.condition("gpu0")["reason"]) == ("False", "ChecksFailed")
    assert "unschedulable" not in fake.nodes["gpu0"]["spec"]
    seen = stands(gate())
    assert (seen.inside, seen.removed, seen.owner) == (False, True, "")
    assert seen.since is not None
    admit(gate())
    assert fake.taints("gpu0") == [POOL]
    assert "gpugate/check" not in fake.nodes["gpu0"]["metadata"]["annotations"]


def test_own_cordon_is_undone(fake: FakeApiServer, gate: Opened) -> None:
    """Where the site wants a cordon too, it comes with the removal and goes with the admission."""
    fake.register("gpu0")
    remove(gate(cordon=True))
    assert fake.nodes["gpu0"]["spec"]["unschedulable"] is True
    assert stands(gate()).owner == ""
    admit(gate(cordon=False))
    assert fake.nodes["gpu0"]["spec"] == {}
    assert "gpugate/cordoned" not in fake.nodes["gpu0"]["metadata"]["annotations"]


def test_cordon_outlives_the_taint(fake: FakeApiServer, gate: Opened) -> None:
    """A node whose taint somebody took away is still out by gpugate's cordon, and removed."""
    fake.register("gpu0")
    remove(gate(cordon=True))
    fake.taint("gpu0")
    seen = stands(gate())
    assert (seen.inside, seen.removed, seen.owner) == (False, True, "")
    admit(gate())
    assert fake.nodes["gpu0"]["spec"] == {}


@pytest.mark.parametrize("first", ["gpugate", "kubectl-cordon"])
def test_cordon_of_others_is_theirs(fake: FakeApiServer, gate: Opened, first: str) -> None:
    """A cordon that somebody else made, even where gpugate had cordoned before, has that owner and keeps it out."""
    fake.register("gpu0")
    remove(gate(cordon=first == "gpugate"))
    fake.cordon("gpu0", cordoned=False)
    fake.cordon("gpu0")
    seen = stands(gate())
    assert (seen.inside, seen.owner) == (False, "cordoned by kubectl-cordon at 2026-03-01T02:00:00Z")


def test_cordon_without_notes_is_somebodys(fake: FakeApiServer, gate: Opened) -> None:
    """Where the API server keeps no notes of who set what, no cordon is gpugate's."""
    fake.register("gpu0")
    remove(gate(cordon=True))
    fake.edit("gpu0", lambda node: node["metadata"].pop("managedFields"))
    assert stands(gate()).owner == "cordoned by somebody"


@pytest.mark.parametrize(
    ("taints", "owner"),
    [
        (["maintenance=ada:NoSchedule"], "taint maintenance=ada:NoSchedule"),
        (["maintenance:NoExecute", NEW], "taint maintenance:NoExecute"),
        (["a=b:NoNewEffect"], "taint a=b:NoNewEffect"),
        (["gpugate/unvalidated=ada:NoSchedule"], "which gpugate does not set"),
        (["gpugate/unvalidated:NoSchedule"], "which gpugate does not set"),
        (["gpugate/unvalidated=new:NoExecute"], "which gpugate does not set"),
        (["gpugate/unvalidated=new:PreferNoSchedule"], "which gpugate does not set"),
        ([NEW, "gpugate/unvalidated=new:NoExecute"], "new:NoSchedule and gpugate/unvalidated=new:NoExecute"),
        ([REMOVED], "somebody changed gpugate's annotation gpugate/since"),
    ],
)
def test_taints_of_others(fake: FakeApiServer, gate: Opened, taints: list[str], owner: str) -> None:
    """A taint that keeps pods away and is not exactly one of gpugate's has an owner, and the node is outside."""
    fake.register("gpu0", *taints)
    seen = stands(gate())
    assert not seen.inside
    assert owner in seen.owner


@pytest.mark.parametrize("since", ["yesterday", "", "2026-03-01T02:00:00"])
def test_time_that_is_none(fake: FakeApiServer, gate: Opened, since: str) -> None:
    """A removed node whose time of removal was altered is not gpugate's to let in, and says how it becomes that."""
    fake.register("gpu0")
    remove(gate())
    fake.edit("gpu0", lambda node: node["metadata"]["annotations"].update({"gpugate/since": since}))
    assert f"gpu0 --overwrite {NEW}" in stands(gate()).owner
    fake.taint("gpu0", NEW)
    assert stands(gate()) == outside("uid-1")


def test_what_comes_and_goes(fake: FakeApiServer, gate: Opened) -> None:
    """Taints that Kubernetes sets and takes back by itself take nobody out of service: such a node may be removed."""
    fake.register("gpu0", "node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/unreachable:NoExecute")
    assert stands(gate()).inside
    remove(gate())
    assert fake.taints("gpu0")[-1] == REMOVED
    fake.register("gpu1", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
    assert "out-of-service" in stands(gate(), "gpu1").owner


@pytest.mark.parametrize(
    ("state", "waits_out", "waits_in"),
    [
        ("", False, False), ("upgrade-done", False, False), ("upgrade-required", True, False),
        ("upgrade-failed", True, False), ("cordon-required", True, True), ("wait-for-jobs-required", True, True),
        ("pod-deletion-required", True, True), ("drain-required", True, True), ("pod-restart-required", True, True),
        ("node-maintenance-required", True, True), ("post-maintenance-required", True, True),
        ("validation-required", True, True), ("uncordon-required", True, True), ("something-new", True, True),
    ],
)  # fmt: skip
def test_driver_upgrades(fake: FakeApiServer, gate: Opened, state: str, waits_out: bool, waits_in: bool) -> None:
    """While the GPU Operator upgrades the driver nothing is done; one that is due or failed holds up no removal."""
    label = {"nvidia.com/gpu-driver-upgrade-state": state}
    fake.register("gpu0", NEW, **label)
    fake.register("gpu1", **label)
    assert [bool(stands(gate(), host).busy) for host in ("gpu0", "gpu1")] == [waits_out, waits_in]


def test_node_that_is_being_deleted(fake: FakeApiServer, gate: Opened) -> None:
    """Nothing is done to a Node on its way out."""
    fake.register("gpu0")
    fake.edit("gpu0", lambda node: node["metadata"].update(deletionTimestamp="2026-03-01T02:00:00Z"))
    assert stands(gate()).busy == "the Node is being deleted"


def test_kubelets_heartbeat_does_not_matter(fake: FakeApiServer, gate: Opened) -> None:
    """A Node that its kubelet wrote to meanwhile is read once more, and changed as decided; both writes are kept."""
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    fake.edit("gpu0", lambda node: node["status"].update(heartbeat="later"))
    fake.taint("gpu0", NEW, "spare=yes:PreferNoSchedule")
    assert backend.carry_out([decision]) == {"gpu0": None}
    assert fake.taints("gpu0") == ["spare=yes:PreferNoSchedule"]
    assert fake.nodes["gpu0"]["status"]["heartbeat"] == "later"


MEANWHILE: dict[str, tuple[Callable[[FakeApiServer], object], str]] = {
    "cordoned": (lambda fake: fake.cordon("gpu0"), "cordoned by kubectl-cordon"),
    "tainted": (lambda fake: fake.taint("gpu0", NEW, "a=b:NoSchedule"), "taint a=b:NoSchedule"),
    "removed by another run": (lambda fake: fake.taint("gpu0", REMOVED), "gpugate/since"),
    "let in by another run": (lambda fake: fake.taint("gpu0"), "it is in service"),
    "upgrade began": (
        lambda fake: fake.edit("gpu0", lambda node: node["metadata"]["labels"].update(
            {"nvidia.com/gpu-driver-upgrade-state": "cordon-required"})), "upgrades its driver"),
    "registered anew": (lambda fake: fake.register("gpu0", NEW), "registered anew"),
    "deleted": (lambda fake: fake.nodes.pop("gpu0"), "knows no such Node"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANWHILE)
def test_changed_meanwhile(fake: FakeApiServer, gate: Opened, name: str) -> None:
    """A Node of which anything that matters was changed since the decision is left as it is, and a sentence says so."""
    change, told = MEANWHILE[name]
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    change(fake)
    before = json.dumps(fake.nodes)
    assert told in problem_of(backend, decision)
    assert json.dumps(fake.nodes) == before


def test_changed_all_the_time(fake: FakeApiServer, gate: Opened) -> None:
    """A Node that changes between each reading and writing is given up after the second time."""
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    ticks = iter(range(100))
    fake.before = lambda call: fake.edit("gpu0", lambda node: node["status"].update(heartbeat=next(ticks)))
    assert "changed twice" in problem_of(backend, decision)
    assert fake.taints("gpu0") == [NEW]
    assert fake.calls.count(f"PATCH {NODES}/gpu0") == 2


def test_every_write_carries_its_version(fake: FakeApiServer, gate: Opened) -> None:
    """What the back end never saw it reads before it writes: a decision of another instance is compared too."""
    fake.register("gpu0", NEW)
    decision = decided(gate(), Action.ADMIT)
    fake.cordon("gpu0")
    assert "cordoned by kubectl-cordon" in problem_of(gate(), decision)


@pytest.mark.parametrize(
    ("right", "told"), [("list nodes", "cannot list nodes"), ("patch nodes", "cannot patch nodes: "),
                        ("get nodes", "cannot get nodes"), ("patch nodes/status", "cannot patch nodes/status: ")],
)  # fmt: skip
def test_missing_right(fake: FakeApiServer, gate: Opened, right: str, told: str) -> None:
    """What the account may not do is told with the right that it lacks and the manifest that grants it."""
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    fake.rights.discard(right)
    said: str
    if right == "list nodes":
        with pytest.raises(AdmissionError) as caught:
            gate().standings(["gpu0"])
        said = str(caught.value)
    elif right == "patch nodes/status":
        assert backend.carry_out([decision]) == {"gpu0": None}
        said = str(backend.tell([])["gpu0"])
        assert "though the decision was carried out" in said
    else:
        fake.before = lambda call: fake.edit("gpu0", lambda node: node["status"].update(heartbeat="later"))
        said = problem_of(backend, decision)
        assert fake.taints("gpu0") == [NEW]
    assert told in said
    assert "gate-rbac.yml" in said


def raw(answer: object, code: int = 200) -> Callable[[str], tuple[int, bytes]]:
    """Answers every request alike."""
    return lambda call: (code, answer if isinstance(answer, bytes) else json.dumps(answer).encode())


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (b"", 200, "no JSON"), (b"<html>", 200, "no JSON"), (b"\xff", 200, "no JSON"), ([], 200, "no list of Nodes"),
        ({"items": None, "metadata": {}}, 200, "no list of Nodes"), ({"items": []}, 200, "no list of Nodes"),
        ({"message": "who are you?"}, 401, "does not accept the credentials"), (b"gateway", 502, "answers 502"),
        ({"message": "slow down"}, 429, "too busy; run the gate again later: slow down"), (b"", 302, "302"),
        ({"message": "etcdserver: no leader"}, 500, "answers 500: etcdserver: no leader"),
        ({"message": "old"}, 410, "expired"), ({"items": [], "metadata": {"continue": "1"}}, 200, "has no end"),
    ],
)  # fmt: skip
def test_no_list(
    fake: FakeApiServer, gate: Opened, monkeypatch: pytest.MonkeyPatch, answer: object, code: int, told: str
) -> None:
    """An answer that is no list of Nodes is an error of the whole run, in one sentence."""
    monkeypatch.setattr("gpugate.admission.kubernetes_api._MOST_PAGES", 3)
    fake.instead = raw(answer, code)
    with pytest.raises(AdmissionError, match=told):
        gate().standings(["gpu0"])


def without(*path: str) -> Callable[[dict[str, Any]], object]:
    """Takes a member out of a Node."""

    def change(node: dict[str, Any]) -> None:
        for part in path[:-1]:
            node = node[part]
        del node[path[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("metadata", "uid"), without("metadata", "resourceVersion"), without("spec"), without("status"),
        lambda node: node["metadata"].update(resourceVersion=7), lambda node: node["metadata"].update(labels=None),
        lambda node: node["metadata"].update(annotations={"gpugate/since": 5}),
        lambda node: node["spec"].update(unschedulable="no"), lambda node: node["spec"].update(taints={}),
        lambda node: node["spec"].update(taints=[{"key": "a"}]),
        lambda node: node["spec"].update(taints=[{"key": "", "effect": "NoSchedule"}]),
        lambda node: node["spec"].update(taints=["gpugate/unvalidated"]),
        lambda node: node["status"].update(conditions=[{"type": "Ready"}]),
    ],
)  # fmt: skip
def test_malformed_node(fake: FakeApiServer, gate: Opened, change: Callable[[dict[str, Any]], object]) -> None:
    """A Node that is not one is unknown, which neither admits nor removes; its neighbour is not touched by that."""
    fake.register("gpu0")
    fake.register("gpu1", NEW)
    change(fake.nodes["gpu0"])
    found = gate().standings(["gpu0", "gpu1"])
    assert "is no Node" in str(found["gpu0"])
    assert isinstance(found["gpu0"], AdmissionError)
    assert found["gpu1"] == outside("uid-2")


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (b"{", 200, "no JSON"), ({"kind": "Status"}, 200, "is no Node"), ([], 200, "is no Node"),
        ({"message": "taint is bad"}, 422, "takes it for invalid: taint is bad"), (b"?", 500, "answers 500"),
        ({"message": "denied by a webhook"}, 403, "denied by a webhook"), ({}, 418, "answers 418"),
    ],
)  # fmt: skip
def test_no_answer_to_a_change(fake: FakeApiServer, gate: Opened, answer: object, code: int, told: str) -> None:
    """A change whose answer is not the changed Node is never reported done, and is not sent a second time."""
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    fake.instead = lambda call: raw(answer, code)(call) if call.startswith("PATCH") else None
    assert told in problem_of(backend, decision)
    assert fake.calls.count(f"PATCH {NODES}/gpu0") == 1


def test_change_that_is_not_there(fake: FakeApiServer, gate: Opened) -> None:
    """A change that is taken and not shown by the Node in the answer, or answered with another Node, is not done."""
    fake.register("gpu0", NEW)
    fake.register("gpu1", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    unchanged, other = (json.dumps(fake.nodes[name]).encode() for name in ("gpu0", "gpu1"))
    fake.instead = lambda call: (200, unchanged)
    assert "does not show it" in problem_of(backend, decision)
    fake.instead = lambda call: (200, other)
    assert "another one" in problem_of(backend, decision)


@pytest.mark.parametrize("call", ["GET", "PATCH"])
def test_silence(fake: FakeApiServer, gate: Opened, call: str) -> None:
    """A server that does not answer in time is an error, of which a change says that nobody knows."""
    fake.register("gpu0", NEW)
    backend = gate(timeout_s=0.3)
    decision = decided(backend, Action.ADMIT)
    over = threading.Event()
    fake.instead = lambda asked: (over.wait(30), None)[1] if asked.startswith(call) else None
    try:
        if call == "GET":
            with pytest.raises(AdmissionError, match="no answer from the API server"):
                backend.standings(["gpu0"])
        else:
            assert "nobody knows whether it was done" in problem_of(backend, decision)
            assert fake.calls.count(f"PATCH {NODES}/gpu0") == 1
    finally:
        over.set()


def test_server_that_is_gone(fake: FakeApiServer, gate: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run has waited too long in all, the rest of it is not tried any more, and says so."""
    fake.register("gpu0", NEW)
    backend = gate()
    decision = decided(backend, Action.ADMIT)
    monkeypatch.setattr("gpugate.admission.kubernetes._CALLS_OF_A_RUN", -1)
    assert "not tried any more" in problem_of(backend, decision)
    assert fake.taints("gpu0") == [NEW]


def test_hosts_and_nodes(fake: FakeApiServer, gate: Opened) -> None:
    """A host goes by its name in Kubernetes; one without a Node, and two with the same one, are unknown."""
    fake.register("ip-10-0-0-7", NEW)
    names = {"gpu0": "ip-10-0-0-7", "gpu1": "ip-10-0-0-8", "gpu2": "ip-10-0-0-8"}
    found = gate(names=names).standings(["gpu0", "gpu1", "gpu2", "gpu3"])
    assert found["gpu0"] == outside("uid-1")
    assert "2 hosts are the one Node ip-10-0-0-8" in str(found["gpu1"])
    assert "gpugate_node_name" in str(found["gpu3"])
    admit(gate(names=names), "gpu0")
    assert fake.taints("ip-10-0-0-7") == []


def test_condition_of_every_decision(fake: FakeApiServer, gate: Opened) -> None:
    """Each decision is shown in gpugate's condition alone, whose time of change stays while its status does."""
    fake.register("gpu0")
    backend = gate()
    for healthy, status, reason in [(None, "Unknown", "NotProven"), (False, "False", "ChecksFailed"),
                                    (True, "True", "ChecksGreen")]:  # fmt: skip
        for action in (Action.KEEP, Action.HOLD, Action.SUSPECT, Action.STAY_OUT, Action.OBSERVE):
            before = json.loads(json.dumps(fake.nodes["gpu0"]))
            assert backend.tell([decided(backend, action, healthy=healthy)]) == {}
            shown = fake.condition("gpu0")
            assert (shown["status"], shown["reason"]) == (status, reason)
            assert shown["message"].startswith(action.value)
            for node in (before, after := json.loads(json.dumps(fake.nodes["gpu0"]))):
                node["metadata"].pop("resourceVersion")
                conditions = node["status"]["conditions"]
                conditions[:] = [each for each in conditions if each["type"] == "Ready"]
            assert after == before


def test_transition_time(fake: FakeApiServer, gate: Opened) -> None:
    """The condition keeps the time of its last change of status, and gets a new one with a new status."""
    fake.register("gpu0")
    backend = gate()
    assert backend.tell([decided(backend, Action.HOLD, healthy=None)]) == {}
    long_ago = "2026-01-01T00:00:00Z"
    fake.edit("gpu0", lambda node: node["status"]["conditions"][-1].update(lastTransitionTime=long_ago))
    assert backend.tell([decided(backend, Action.HOLD, healthy=None)]) == {}
    assert fake.condition("gpu0")["lastTransitionTime"] == long_ago
    assert fake.condition("gpu0")["lastHeartbeatTime"] > long_ago
    assert backend.tell([decided(backend, Action.KEEP)]) == {}
    assert fake.condition("gpu0")["lastTransitionTime"] > long_ago


def test_condition_survives_the_kubelet(fake: FakeApiServer, gate: Opened) -> None:
    """A decision is shown on a Node that its kubelet has written to since, and not on another Node of its name."""
    fake.register("gpu0")
    fake.register("gpu1")
    backend = gate()
    both = [decided(backend, Action.HOLD, host, healthy=None) for host in ("gpu0", "gpu1")]
    fake.edit("gpu0", lambda node: node["status"].update(heartbeat="later"))
    fake.register("gpu1")
    problems = backend.tell(both)
    assert list(problems) == ["gpu1"]
    assert "registered anew" in str(problems["gpu1"])
    assert fake.nodes["gpu0"]["status"]["heartbeat"] == "later"
    assert fake.condition("gpu0")["status"] == "Unknown"


def test_message_is_harmless(fake: FakeApiServer, gate: Opened) -> None:
    """What a report says reaches the condition on one line, with nothing that a terminal obeys, and not endlessly."""
    fake.register("gpu0")
    backend = gate()
    wild = replace(decided(backend, Action.HOLD), reasons=("a\x1b[2Jb\nc", "x" * 5000))
    assert backend.tell([wild]) == {}
    message = fake.condition("gpu0")["message"]
    assert "a\\x1b[2Jb c" in message
    assert len(message) <= 1000


def test_many_nodes(fake: FakeApiServer, gate: Opened) -> None:
    """Hundreds of nodes are listed page by page and changed each by one request; one that is not done is told alone."""
    hosts = [f"gpu{number}" for number in range(620)]
    for host in hosts:
        fake.register(host, NEW)
    backend = gate()
    found = backend.standings(hosts)
    assert fake.calls == [f"GET {NODES}"] * 2
    decisions = [Decision(host, Action.ADMIT, ("green",), seen) for host, seen in found.items()
                 if isinstance(seen, Standing)]  # fmt: skip
    fake.cordon("gpu7")
    fake.calls.clear()
    results = backend.carry_out(decisions)
    assert [host for host, error in results.items() if error] == ["gpu7"]
    assert [host for host in hosts if fake.taints(host)] == ["gpu7"]
    assert len(fake.calls) == 621


def test_one_of_several_clusters(fake: FakeApiServer, tmp_path: Path) -> None:
    """Which cluster is never left to whatever kubectl was told last: a file with several contexts needs a name."""
    path = str(fake.kubeconfig(tmp_path / "kubeconfig", "prod", "test"))
    with pytest.raises(AdmissionError, match="gpugate_admission_context to one of prod, test"):
        Api(path, "", 30.0)
    fake.register("gpu0")
    assert len(list(Api(path, "test", 30.0).nodes())) == 1


@pytest.mark.parametrize("content", [None, "", "{", "a: b", "apiVersion: v1\nkind: Config\n"])
def test_kubeconfig_that_is_none(tmp_path: Path, content: str | None) -> None:
    """A kubeconfig that is not there, or none, is an error that names variable and file."""
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AdmissionError, match=rf"gpugate_admission_kubeconfig: {path}"):
        Api(str(path), "", 30.0)


@pytest.mark.parametrize("name", ["", "kubeconfig", "./in-cluster"])
def test_kubeconfig_that_is_no_place(name: str) -> None:
    """Where the kubeconfig lies does not depend on the folder in which somebody starts the gate."""
    with pytest.raises(AdmissionError, match="neither an absolute path nor in-cluster"):
        Api(name, "", 30.0)


def test_outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's own account is an error where there is no pod."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(AdmissionError, match="gpugate_admission_kubeconfig: in-cluster"):
        Api("in-cluster", "", 30.0)


def test_client_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the official client, the error says what to install for which Python."""
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    with pytest.raises(AdmissionError, match=r"pip install '\.\[kubernetes\]'") as caught:
        Api(str(tmp_path), "", 30.0)
    assert sys.executable in str(caught.value)


def test_site_opens_it(fake: FakeApiServer, tmp_path: Path) -> None:
    """The inventory's variables open the back end with what they say: names, taints of the pool, and a cordon."""
    variables = {
        "gpugate_admission_backend": "kubernetes",
        "gpugate_admission_state": str(tmp_path / "admission.json"),
        "gpugate_admission_kubeconfig": str(fake.kubeconfig(tmp_path / "kubeconfig", "prod", "test")),
        "gpugate_admission_context": "prod",
        "gpugate_admission_pool_taints": ["team"],
        "gpugate_admission_cordon": True,
        "gpugate_report": str(tmp_path / "junit.xml"),
    }
    site = settle({"gpu0": variables}, tmp_path).site
    run = Run("ada", report(), tmp_path / "junit.xml", {"gpu0": "kube0"})
    backend, audit = open_backend(site, run, Memory(Store(tmp_path / "state.sqlite")))
    assert audit.path == tmp_path / "admission.kubernetes.audit.jsonl"
    fake.register("kube0", "team=a:NoSchedule")
    assert isinstance(backend, Kubernetes)
    assert stands(backend).inside
    remove(backend)
    assert fake.taints("kube0") == ["team=a:NoSchedule", REMOVED]
    assert fake.nodes["kube0"]["spec"]["unschedulable"] is True
    assert fake.nodes["kube0"]["metadata"]["annotations"]["gpugate/run"] == run.report.run_id


def test_rights_are_the_least() -> None:
    """The shipped role has the four rights that the fake server's account has, and none besides."""
    manifest = Path(__file__).parents[2] / "deploy/kubernetes/gate-rbac.yml"
    [role] = [each for each in yaml.safe_load_all(manifest.read_text()) if each["kind"] == "ClusterRole"]
    granted = [f"{verb} {resource}" for rule in role["rules"] for resource in rule["resources"]
               for verb in rule["verbs"]]  # fmt: skip
    assert sorted(granted) == sorted(FakeApiServer().rights)
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])


def test_kubelet_registers_with_the_taint() -> None:
    """The example of a kubelet's configuration registers nodes with the very taint that the gate takes away."""
    example = Path(__file__).parents[2] / "deploy/kubernetes/kubelet.conf.d/50-gpugate.conf"
    known = yaml.safe_load(example.read_text())
    assert (known["apiVersion"], known["kind"]) == ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
    assert known["registerWithTaints"] == [taint(NEW)]
