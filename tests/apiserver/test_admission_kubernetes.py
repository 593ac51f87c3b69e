"""The Kubernetes back end on a real API server, under the shipped rights alone; and the fake one beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from gated import POLICY, actions, report_on
from gpugate.admission import Audit, Carried, Limits, Memory, Node, Present, Standing, carry
from gpugate.admission.kubernetes import Kubernetes
from gpugate.admission.kubernetes_api import Api
from gpugate.errors import AdmissionError
from gpugate.state.store import Store
from kube_cluster import DEPLOY, Cluster
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import new_client_from_config

ALL = Limits(fleet_percent=100, domain_percent=100, driver_percent=100, cause_percent=100, at_least=1000)
KUBELET = yaml.safe_load((DEPLOY / "kubelet.conf.d/50-gpugate.conf").read_text())
[NEW] = KUBELET["registerWithTaints"]
_NUMBERS = count(1)


@dataclass
class Gate:
    """The gate of one controller, with the account that is shipped and a state store of its own."""

    kubeconfig: Path
    folder: Path
    cordon: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def run(self, hosts: Sequence[str], red: Sequence[str] = ()) -> Carried:
        """Decide by a report of now, in which `red` have a GPU without headroom, and carry it out."""
        report = report_on(hosts, red)
        present = [Node(host, POLICY, Present("m-1", "b-1", frozenset({f"GPU-{host}"}))) for host in hosts]
        audit, memory = Audit(self.folder / "audit.jsonl", report, "ada"), Memory(Store(self.folder / "state.sqlite"))
        now = datetime.now().astimezone()
        return carry(report, present, self.backend(report.run_id), audit, memory, now, limits=ALL)

    def backend(self, run: str = "20260301T115000000000Z-abcdef") -> Kubernetes:
        """The back end of one run."""
        api = Api(str(self.kubeconfig), "", 30.0)
        return Kubernetes(api, run, self.names, pool_taints=("nvidia.com/gpu",), cordon=self.cordon)

    def stands(self, host: str) -> Standing:
        """Where a node stands; it has to be known."""
        found = self.backend().standings([host])[host]
        assert isinstance(found, Standing), found
        return found


@pytest.fixture
def gate(kubernetes: Cluster, tmp_path: Path) -> Gate:
    """A gate of this test's own."""
    return Gate(kubernetes.gate(), tmp_path)


@pytest.fixture
def host(kubernetes: Cluster) -> str:
    """A new node that registered with the shipped taint and that of its pool."""
    name = f"node-{next(_NUMBERS)}"
    kubernetes.register(name, {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, NEW)
    return name


def taints(node: dict[str, Any]) -> list[str]:
    """A Node's taints, written as KEY=VALUE:EFFECT, but for the one that Kubernetes gives new Nodes itself."""
    found = [each for each in node["spec"].get("taints", []) if each["key"] != "node.kubernetes.io/not-ready"]
    return [f"{each['key']}={each.get('value', '')}:{each['effect']}" for each in found]


def condition(node: dict[str, Any], kind: str = "GpugateHealthy") -> dict[str, Any]:
    """One condition of a Node."""
    [found] = [each for each in node["status"]["conditions"] if each["type"] == kind]
    return dict(found)


POOL, REMOVED = "nvidia.com/gpu=present:NoSchedule", "gpugate/unvalidated=removed:NoSchedule"


def test_life_of_a_node(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """A new node is admitted when all is green; a fault taints it, with a condition that tells which; repaired it comes
    back. Everything else on the Node stays."""
    assert gate.stands(host) == Standing(False, token=kubernetes.node(host)["metadata"]["uid"])
    assert actions(gate.run([host])) == {host: "admit"}
    node = kubernetes.node(host)
    assert taints(node) == [POOL]
    assert node["metadata"]["labels"] == {"gpugate/state": "admitted"}
    assert (condition(node)["status"], condition(node)["reason"]) == ("True", "ChecksGreen")

    assert actions(gate.run([host], red=[host])) == {host: "remove"}
    node = kubernetes.node(host)
    assert taints(node) == [POOL, REMOVED]
    assert node["metadata"]["annotations"]["gpugate/check"] == "thermal.headroom"
    assert (condition(node)["status"], condition(node)["reason"]) == ("False", "ChecksFailed")
    assert "thermal.headroom FAIL" in condition(node)["message"]
    assert "unschedulable" not in node["spec"]
    assert gate.stands(host).removed

    kubernetes.heartbeat(host)
    assert actions(gate.run([host], red=[host])) == {host: "stay_out"}
    assert actions(gate.run([host])) == {host: "admit"}
    node = kubernetes.node(host)
    assert taints(node) == [POOL]
    assert "gpugate/check" not in node["metadata"]["annotations"]
    assert condition(node, "Ready")["reason"] == "KubeletReady"


def test_operators_cordon_and_taint(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """A node that an operator cordoned or tainted stays as it is, whatever the report says, and says whose it is."""
    mine = {"key": "maintenance", "value": "ada", "effect": "NoSchedule"}
    kubernetes.cordon(host)
    assert actions(gate.run([host])) == {host: "stay_out"}
    assert "cordoned by kubectl-cordon at 20" in gate.stands(host).owner
    kubernetes.admin.patch_node(host, {"spec": {"unschedulable": None, "taints": [mine, NEW]}})
    assert gate.stands(host).owner == "taint maintenance=ada:NoSchedule"
    for red in ([], [host]):
        before = kubernetes.node(host)["spec"]
        assert actions(gate.run([host], red=red)) == {host: "stay_out"}
        assert kubernetes.node(host)["spec"] == before
    assert condition(kubernetes.node(host))["status"] == "False"


def test_whose_cordon_it_is(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """A cordon of gpugate's own goes with the admission; uncordoned and cordoned again by a person it is that one's."""
    gate.cordon = True
    assert actions(gate.run([host])) == {host: "admit"}
    assert actions(gate.run([host], red=[host])) == {host: "remove"}
    assert kubernetes.node(host)["spec"]["unschedulable"] is True
    assert gate.stands(host).owner == ""
    for value in (None, True):
        kubernetes.admin.patch_node(host, {"spec": {"unschedulable": value}}, field_manager="kubectl-cordon")
    assert "cordoned by kubectl-cordon" in gate.stands(host).owner
    assert actions(gate.run([host])) == {host: "stay_out"}

    kubernetes.admin.patch_node(host, {"spec": {"unschedulable": None}}, field_manager="kubectl-cordon")
    assert actions(gate.run([host])) == {host: "admit"}
    assert actions(gate.run([host], red=[host])) == {host: "remove"}
    assert actions(gate.run([host])) == {host: "admit"}
    assert "unschedulable" not in kubernetes.node(host)["spec"]


def test_cordon_over_gpugates_stays_gpugates(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """Who cordons what is cordoned changes nothing, and so owns nothing: docs/kubernetes.md says to hold it instead."""
    gate.cordon = True
    gate.run([host])
    gate.run([host], red=[host])
    kubernetes.cordon(host)
    assert gate.stands(host).owner == ""


def test_kubelet_cannot_let_itself_in(kubernetes: Cluster) -> None:
    """A kubelet registers its node with the shipped taint, and may not take it away itself."""
    kubernetes.register("gpu0", NEW, user="kubelet")
    kubelet = client.CoreV1Api(kubernetes.api("kubelet"))
    with pytest.raises(ApiException) as caught:
        kubelet.patch_node("gpu0", {"spec": {"taints": []}})
    assert (caught.value.status, "modify taints" in caught.value.body) == (403, True)
    assert taints(kubernetes.node("gpu0")) == ["gpugate/unvalidated=new:NoSchedule"]


FORBIDDEN: dict[str, Callable[[client.ApiClient], object]] = {
    "delete a node": lambda api: client.CoreV1Api(api).delete_node("node-1"),
    "register a node": lambda api: client.CoreV1Api(api).create_node({"metadata": {"name": "mine"}}),
    "replace a node": lambda api: client.CoreV1Api(api).replace_node("node-1", {"metadata": {"name": "node-1"}}),
    "watch nodes": lambda api: client.CoreV1Api(api).list_node(watch=True, timeout_seconds=1, _preload_content=False),
    "read secrets": lambda api: client.CoreV1Api(api).list_secret_for_all_namespaces(),
    "list pods": lambda api: client.CoreV1Api(api).list_pod_for_all_namespaces(),
    "evict a pod": lambda api: client.CoreV1Api(api).create_namespaced_pod_eviction(
        "p", "default", {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}}),
    "start a pod": lambda api: client.CoreV1Api(api).create_namespaced_pod(
        "gpugate", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
    "make a token": lambda api: client.CoreV1Api(api).create_namespaced_service_account_token(
        "gpugate-gate", "gpugate", {"spec": {"audiences": []}}),
    "grant rights": lambda api: client.RbacAuthorizationV1Api(api).create_cluster_role(
        {"metadata": {"name": "all"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
    "raise its own": lambda api: client.RbacAuthorizationV1Api(api).patch_cluster_role("gpugate-gate", {"rules": []}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_outside_of_its_rights(gate: Gate, name: str) -> None:
    """What the gate does not need its account may not do: 403, by the API server's own word."""
    with pytest.raises(ApiException) as caught:
        FORBIDDEN[name](new_client_from_config(str(gate.kubeconfig)))
    assert caught.value.status == 403
    assert "system:serviceaccount:gpugate:gpugate-gate" in str(caught.value.body)


def test_right_that_is_missing(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """Without a right the run says which, admits nobody, and says so of the condition alone where that is the one."""
    rbac = client.RbacAuthorizationV1Api(kubernetes.api("admin"))
    shipped = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "patch"]},
               {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]  # fmt: skip
    try:
        rbac.patch_cluster_role("gpugate-gate", {"rules": [{**shipped[0], "verbs": ["get", "list"]}]})
        until_denied(gate, lambda api: api.patch(host, {}))
        carried = gate.run([host])
        assert "cannot patch nodes: the API server forbids it" in str(carried.problems[host])
        assert "gate-rbac.yml" in str(carried.problems[host])
        assert NEW in kubernetes.node(host)["spec"]["taints"]
        rbac.patch_cluster_role("gpugate-gate", {"rules": shipped[:1]})
        until_denied(gate, lambda api: api.patch(host, {}), denied=False)
        carried = gate.run([host])
        assert "nodes/status" in str(carried.problems[host])
        assert "though the decision was carried out" in str(carried.problems[host])
        assert gate.stands(host).inside
    finally:
        rbac.patch_cluster_role("gpugate-gate", {"rules": shipped})
    until_denied(gate, lambda api: api.patch_status(host, {}), denied=False)


def until_denied(gate: Gate, call: Callable[[Api], object], *, denied: bool = True) -> None:
    """Wait until the API server has taken in a change of rights, which it does soon, and not at once."""
    deadline = time.monotonic() + 60
    while True:
        try:
            call(Api(str(gate.kubeconfig), "", 30.0))
            done = not denied
        except AdmissionError:
            done = denied
        if done:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Meanwhile(Kubernetes):
    """A back end that somebody else is faster than: he acts between the decision and what is done about it."""

    def __init__(self, act: Callable[[str], None], host: str, api: Api, run: str) -> None:
        super().__init__(api, run, {}, pool_taints=("nvidia.com/gpu",), cordon=False)
        self._act, self._host = act, host

    def begin(self) -> None:
        """Act."""
        self._act(self._host)


def test_real_conflict(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """An old version is refused with 409; a heartbeat since the decision does not matter, a cordon does."""
    report = report_on([host])
    api = Api(str(gate.kubeconfig), "", 30.0)
    version = kubernetes.node(host)["metadata"]["resourceVersion"]
    kubernetes.heartbeat(host)
    for patch in (api.patch, api.patch_status):
        assert patch(host, {"metadata": {"resourceVersion": version}}) is None

    present = [Node(host, POLICY, Present("m-1", "b-1", frozenset({f"GPU-{host}"})))]
    for act, problem in ((kubernetes.cordon, "cordoned by kubectl-cordon"), (kubernetes.heartbeat, "")):
        backend = Meanwhile(act, host, api, report.run_id)
        folder = gate.folder / act.__name__
        folder.mkdir()
        audit, memory = Audit(folder / "audit.jsonl", report, "ada"), Memory(Store(folder / "state.sqlite"))
        carried = carry(report, present, backend, audit, memory, datetime.now().astimezone(), limits=ALL)
        assert problem in str(carried.problems.get(host, ""))
        assert bool(carried.problems) is bool(problem)
        kubernetes.admin.patch_node(host, {"spec": {"unschedulable": None}})
    assert taints(kubernetes.node(host)) == [POOL]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"taints": [{"key": "gpugate/unvalidated", "value": "new", "effect": "Never"}]}},
        {"spec": {"taints": [{"key": "no key/x", "effect": "NoSchedule"}]}},
        {"metadata": {"labels": {"gpugate/state": "not a value"}}},
    ],
)
def test_real_422(gate: Gate, host: str, patch: dict[str, Any]) -> None:
    """What is not valid is refused by the API server, and its word is told."""
    with pytest.raises(AdmissionError, match=r"takes it for invalid: Node .* is invalid"):
        Api(str(gate.kubeconfig), "", 30.0).patch(host, patch)


def test_node_deleted(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """A Node that was deleted is unknown; registered anew it is another one, and new."""
    gate.run([host])
    before = gate.stands(host)
    kubernetes.admin.delete_node(host)
    assert "knows no Node" in str(gate.backend().standings([host])[host])
    kubernetes.register(host, NEW)
    after = gate.stands(host)
    assert (before.inside, after.inside) == (True, False)
    assert before.token != after.token


def test_driver_upgrade(kubernetes: Cluster, gate: Gate, host: str) -> None:
    """A node whose driver is being upgraded is not let in until that is over."""
    label = "nvidia.com/gpu-driver-upgrade-state"
    for state, action in (("validation-required", "stay_out"), ("upgrade-done", "admit")):
        kubernetes.admin.patch_node(host, {"metadata": {"labels": {label: state}}})
        assert actions(gate.run([host])) == {host: action}


def test_a_thousand_nodes(kubernetes: Cluster, gate: Gate) -> None:
    """A thousand new nodes are decided on and admitted, and removed again, by one list and one patch each."""
    hosts = [f"many-{number:04}" for number in range(1000)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: kubernetes.register(name, NEW), hosts))
    took = []
    for red, action in (([], "admit"), (hosts, "remove")):
        begin = time.monotonic()
        carried = gate.run(hosts, red=red)
        took.append(time.monotonic() - begin)
        assert set(actions(carried).values()) == {action}
    found = gate.backend().standings(hosts).values()
    assert {isinstance(stands, Standing) and stands.removed and not stands.owner for stands in found} == {True}
    print(f"1000 nodes: decided, admitted and shown in {took[0]:.1f} s, removed and shown in {took[1]:.1f} s")
