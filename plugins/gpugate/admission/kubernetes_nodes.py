"""Kubernetes' Nodes as the API server tells of them, what each means for admission, and how each is changed. Pure.

Everything that gpugate writes has its own name: one taint, one label, four annotations, one condition. A cordon has no
owner's name on it; whose it is says `metadata.managedFields`, in which the API server notes who set a field last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads Python 3.11's own only from 3.12 on

from ..errors import AdmissionError
from ..report.text import one_line, shortened
from .decision import Decision
from .standing import Standing

TAINT, NEW, REMOVED = "gpugate/unvalidated", "new", "removed"
STATE = "gpugate/state"
RUN, CHECK, SINCE, CORDONED = "gpugate/run", "gpugate/check", "gpugate/since", "gpugate/cordoned"
CONDITION = "GpugateHealthy"
MANAGER = "gpugate"

# Kubernetes sets and takes these back by itself, by what it sees of kubelet and network: they say nothing of GPUs. The
# cordon itself is `spec.unschedulable`.
_COME_AND_GO = {"node.cloudprovider.kubernetes.io/uninitialized",
                *(f"node.kubernetes.io/{name}" for name in ("disk-pressure", "memory-pressure", "network-unavailable",
                  "not-ready", "pid-pressure", "unreachable", "unschedulable"))}  # fmt: skip
# States of NVIDIA's k8s-operator-libs (pkg/upgrade/consts.go).
_UPGRADE = "nvidia.com/gpu-driver-upgrade-state"
_NO_UPGRADE = {"", "upgrade-done"}
_UPGRADE_STANDS = {"upgrade-required", "upgrade-failed"}  # for weeks, perhaps: nothing is done to the node meanwhile
_HEALTH = {True: ("True", "ChecksGreen"), False: ("False", "ChecksFailed"), None: ("Unknown", "NotProven")}
_MOST_MESSAGE = 1000
_STRICT = ConfigDict(strict=True, extra="allow")  # what is not ours is written back as it was read

_Text = Annotated[str, StringConstraints(min_length=1)]


@with_config(_STRICT)
class Taint(TypedDict):
    """One taint."""

    key: _Text
    effect: _Text
    value: NotRequired[str]


@with_config(_STRICT)
class _Manager(TypedDict):
    manager: NotRequired[str]
    time: NotRequired[str | None]
    fieldsV1: NotRequired[dict[str, Any]]


@with_config(_STRICT)
class _Metadata(TypedDict):
    name: _Text
    uid: _Text
    resourceVersion: _Text
    deletionTimestamp: NotRequired[str | None]
    labels: NotRequired[dict[str, str]]
    annotations: NotRequired[dict[str, str]]
    managedFields: NotRequired[list[_Manager]]


@with_config(_STRICT)
class _Spec(TypedDict):
    taints: NotRequired[list[Taint]]
    unschedulable: NotRequired[bool]


@with_config(_STRICT)
class _Condition(TypedDict):
    type: str
    status: str
    lastTransitionTime: NotRequired[str | None]  # a time that was never set is null


@with_config(_STRICT)
class _Status(TypedDict):
    conditions: NotRequired[list[_Condition]]


@with_config(_STRICT)
class KubeNode(TypedDict):
    """One Node, of which gpugate reads this much."""

    metadata: _Metadata
    spec: _Spec
    status: _Status


_NODE = TypeAdapter(KubeNode)


def parse(answer: object) -> KubeNode:
    """A Node as the API server answers; raises AdmissionError for what is none."""
    try:
        return _NODE.validate_python(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole of it"
        raise AdmissionError(f"what the API server answers is no Node ({one_line(where)}: {first['msg']})") from None


def standing(node: KubeNode, pool_taints: Collection[str]) -> Standing:
    """What the Node's state means. `pool_taints` are keys of taints that nodes in service have too.

    In service is where nothing but Kubernetes' own coming and going keeps pods away. The token is the Node's uid: one
    that was registered anew is another Node.
    """
    cordoned, our_cordon = node["spec"].get("unschedulable", False), _our_cordon(node)
    ours, others = _taints(node)
    owners = [_cordon(node)] if cordoned and not our_cordon else []
    owners += [f"taint {_text(each)}" for each in others if _closes(each) and each["key"] not in pool_taints]
    if [each for each in ours if not _set_by_gpugate(each)] or len(ours) > 1:
        owners.append(f"taint {' and '.join(map(_text, ours))}, which gpugate does not set")
    removed = our_cordon or any(each.get("value") == REMOVED for each in ours)
    since = _since(node) if removed else None
    if removed and since is None:
        owners.append(
            f"somebody changed gpugate's annotation {SINCE}; hand the node over with kubectl taint nodes "
            f"{node['metadata']['name']} --overwrite {TAINT}={NEW}:NoSchedule"
        )
    inside = not (ours or cordoned or owners)
    return Standing(
        inside,
        owner="; ".join(map(one_line, owners)),
        busy=_busy(node, inside),
        removed=removed,
        since=since,
        token=node["metadata"]["uid"],
    )


def admission(node: KubeNode, run: str, now: datetime) -> dict[str, Any]:
    """The patch that takes gpugate's taint away, and the cordon where that is gpugate's too."""
    spec: dict[str, Any] = {"taints": _taints(node)[1]}
    if _our_cordon(node):
        spec["unschedulable"] = False
    notes = {RUN: run, SINCE: _time(now), CHECK: None, CORDONED: None}
    return _patch(node, "admitted", notes, spec)


def removal(node: KubeNode, run: str, checks: Iterable[str], now: datetime, *, cordon: bool) -> dict[str, Any]:
    """The patch that puts gpugate's taint back, and cordons the node where the site wants that."""
    spec: dict[str, Any] = {"taints": [*_taints(node)[1], {"key": TAINT, "value": REMOVED, "effect": "NoSchedule"}]}
    notes = {RUN: run, SINCE: _time(now), CHECK: ", ".join(checks), CORDONED: run if cordon else None}
    if cordon:
        spec["unschedulable"] = True
    return _patch(node, REMOVED, notes, spec)


def condition(node: KubeNode, decision: Decision, run: str, now: datetime) -> dict[str, Any]:
    """The patch of the Node's status that shows a decision: what is proven of the node, and what was decided."""
    status, reason = _HEALTH[decision.healthy]
    since = _time(now)
    for before in node["status"].get("conditions", []):
        if before["type"] == CONDITION and before["status"] == status:
            since = before.get("lastTransitionTime") or since
    message = f"{decision.action.value} by run {run}: {'; '.join(decision.reasons)}"
    shown = {"type": CONDITION, "status": status, "reason": reason, "lastTransitionTime": since,
             "lastHeartbeatTime": _time(now), "message": shortened(one_line(message), _MOST_MESSAGE)}  # fmt: skip
    return {"metadata": _version(node), "status": {"conditions": [shown]}}


def _patch(node: KubeNode, state: str, notes: dict[str, str | None], spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": _version(node) | {"labels": {STATE: state}, "annotations": notes}, "spec": spec}


def _version(node: KubeNode) -> dict[str, Any]:
    """With it the API server refuses a patch of a Node that was changed since it was read."""
    return {"resourceVersion": node["metadata"]["resourceVersion"]}


def _annotations(node: KubeNode) -> dict[str, str]:
    return node["metadata"].get("annotations", {})


def _taints(node: KubeNode) -> tuple[list[Taint], list[Taint]]:
    """Gpugate's taints, and the others."""
    taints = node["spec"].get("taints", [])
    return [each for each in taints if each["key"] == TAINT], [each for each in taints if each["key"] != TAINT]


def _closes(taint: Taint) -> bool:
    """Whether it keeps pods away until somebody takes it back."""
    return taint["effect"] != "PreferNoSchedule" and taint["key"] not in _COME_AND_GO


def _set_by_gpugate(taint: Taint) -> bool:
    return taint.get("value") in (NEW, REMOVED) and taint["effect"] == "NoSchedule"


def _text(taint: Taint) -> str:
    value = taint.get("value", "")
    return f"{taint['key']}{'=' if value else ''}{value}:{taint['effect']}"


def _cordoners(node: KubeNode) -> list[tuple[str, str]]:
    """Who set `spec.unschedulable` to what it is, and when, by the API server's own notes."""
    found = []
    for entry in node["metadata"].get("managedFields", []):
        spec = entry.get("fieldsV1", {}).get("f:spec")
        if isinstance(spec, dict) and "f:unschedulable" in spec:
            found.append((entry.get("manager", ""), entry.get("time") or ""))
    return found


def _our_cordon(node: KubeNode) -> bool:
    """Whether gpugate cordoned the node, and nobody has uncordoned and cordoned it again since."""
    cordoned = node["spec"].get("unschedulable", False) and CORDONED in _annotations(node)
    return cordoned and {name for name, _ in _cordoners(node)} == {MANAGER}


def _cordon(node: KubeNode) -> str:
    told = [f"by {name or 'somebody'}" + (f" at {time}" if time else "") for name, time in _cordoners(node)]
    return f"cordoned {' and '.join(told) or 'by somebody'}"


def _busy(node: KubeNode, inside: bool) -> str:
    if node["metadata"].get("deletionTimestamp"):
        return "the Node is being deleted"
    state = node["metadata"].get("labels", {}).get(_UPGRADE, "")
    if state in _NO_UPGRADE or (inside and state in _UPGRADE_STANDS):
        return ""
    return f"the GPU Operator upgrades its driver ({_UPGRADE}: {one_line(state)})"


def _since(node: KubeNode) -> datetime | None:
    try:
        since = datetime.fromisoformat(_annotations(node).get(SINCE, ""))
    except ValueError:
        return None
    return since if since.tzinfo else None


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
