"""The API server of the default suite and the real one: the same patches, the same answers, the same Nodes after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from fake_apiserver import serving
from kube_cluster import Cluster
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.config import new_client_from_config

GATE, CORDON = "gpugate", "kubectl-cordon"
CLOSED = {"key": "a", "value": "b", "effect": "NoSchedule"}


def healthy(status: str) -> dict[str, Any]:
    """A patch of gpugate's condition."""
    return {"status": {"conditions": [{"type": "GpugateHealthy", "status": status, "reason": f"Is{status}"}]}}


# what is patched (the Node, or its status), with what, and by whom
STEPS: list[tuple[str, dict[str, Any], str]] = [
    ("node", {"metadata": {"labels": {"gpugate/state": "admitted"}, "annotations": {"gpugate/run": "r"}}}, GATE),
    ("node", {"metadata": {"annotations": {"gpugate/run": None, "gpugate/check": None}}}, GATE),
    ("node", {"metadata": {}, "spec": {"unschedulable": True}}, GATE),
    ("node", {"metadata": {}, "spec": {"unschedulable": True}}, CORDON),
    ("node", {"metadata": {}, "spec": {"unschedulable": False}}, CORDON),
    ("node", {"metadata": {}, "spec": {"unschedulable": True}}, CORDON),
    ("node", {"metadata": {}, "spec": {"unschedulable": None}}, CORDON),
    ("node", {"metadata": {}, "spec": {"taints": [CLOSED]}}, GATE),
    ("node", {"metadata": {}, "spec": {"taints": [CLOSED | {"effect": "Never"}]}}, GATE),
    ("node", {"metadata": {}, "spec": {"taints": [CLOSED, CLOSED | {"value": "c"}]}}, GATE),
    ("node", {"metadata": {}, "spec": {"taints": []}}, GATE),
    ("node", {"metadata": {"labels": {"gpugate/state": "not a value"}}}, GATE),
    ("node", {"metadata": {"resourceVersion": "1"}, "spec": {"unschedulable": True}}, GATE),
    ("status", {"metadata": {}} | healthy("True"), GATE),
    ("status", {"metadata": {}} | healthy("False"), GATE),
    ("status", {"metadata": {"resourceVersion": "1"}} | healthy("True"), GATE),
    ("node", {"metadata": {}} | healthy("Unknown"), GATE),
]


def answer(kubeconfig: Path, part: str, patch: dict[str, Any], manager: str) -> tuple[int, Any]:
    """The code of an answer, and what gpugate reads of the Node afterwards."""
    core = client.CoreV1Api(new_client_from_config(str(kubeconfig)))
    send = core.patch_node_status if part == "status" else core.patch_node
    code = 200
    try:
        send("twin", patch, field_manager=manager, _preload_content=False)
    except ApiException as error:
        code = error.status
    node = json.loads(core.read_node("twin", _preload_content=False).data)
    ours = [{key: value for key, value in node["metadata"].get(kind, {}).items() if key.startswith("gpugate/")}
            for kind in ("labels", "annotations")]  # fmt: skip
    owners = [entry["manager"] for entry in node["metadata"].get("managedFields", [])
              if "f:unschedulable" in entry["fieldsV1"].get("f:spec", {})]  # fmt: skip
    shown = [each for each in node["status"]["conditions"] if each["type"] == "GpugateHealthy"]
    conditions = [(each["status"], each["reason"]) for each in shown]
    taints = [each for each in node["spec"].get("taints", []) if each["key"] != "node.kubernetes.io/not-ready"]
    return code, (ours, owners, conditions, taints, node["spec"].get("unschedulable"))


def test_fake_answers_like_the_real_one(kubernetes: Cluster, tmp_path: Path) -> None:
    """Codes, labels, taints, cordons, conditions and owners of fields are the same after each of the same patches."""
    new = {"key": "gpugate/unvalidated", "value": "new", "effect": "NoSchedule"}
    kubernetes.register("twin", new)
    real = kubernetes.folder / "admin.kubeconfig"
    with serving() as fake:
        fake.register("twin", "gpugate/unvalidated=new:NoSchedule")
        for number, step in enumerate(STEPS):
            assert answer(fake.kubeconfig(tmp_path / "fake"), *step) == answer(real, *step), f"step {number}: {step}"


def test_manifests_are_taken_as_they_are(kubernetes: Cluster) -> None:
    """The API server holds the rights as the manifest has them, word for word."""
    role = client.RbacAuthorizationV1Api(kubernetes.api("admin")).read_cluster_role("gpugate-gate")
    manifest = Path(__file__).parents[2] / "deploy/kubernetes/gate-rbac.yml"
    [shipped] = [each for each in yaml.safe_load_all(manifest.read_text()) if each["kind"] == "ClusterRole"]
    assert [(rule.resources, rule.verbs) for rule in role.rules] == [
        (rule["resources"], rule["verbs"]) for rule in shipped["rules"]
    ]
