"""Kubernetes: a node is kept out by gpugate's own taint, `gpugate/unvalidated`, with which it registers.

Letting in takes that taint away, removing puts it back, both in one patch with label, annotations and the cordon, where
the site wants one. Every patch carries the `resourceVersion` of the Node that it was made from. A Node that changed
meanwhile (kubelets write to theirs all the time) is read once more: the patch is made anew where nothing that matters
is different, and refused else. Everybody else's taints, cordons, labels and conditions stay as they are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ..errors import AdmissionError
from . import kubernetes_nodes as kube
from .decision import Action, Decision
from .kubernetes_api import AT_ONCE, Api
from .kubernetes_nodes import KubeNode
from .standing import Standing

_CALLS_OF_A_RUN = 10  # so many times its limit of one call may all writes of a run take, together


class Kubernetes:
    """Back end over an API server. `names` is what Kubernetes calls a host where that is not its inventory name;
    `pool_taints` are keys of taints that nodes in service have; with `cordon`, a removed node is cordoned too."""

    def __init__(
        self, api: Api, run_id: str, names: Mapping[str, str], *, pool_taints: Collection[str], cordon: bool
    ) -> None:
        self._api, self._run_id, self._names = api, run_id, names
        self._pool_taints, self._cordon = pool_taints, cordon
        self._nodes: dict[str, KubeNode] = {}  # as last read, by host
        self._done: list[Decision] = []

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        """Where each node stands, by one list of the Nodes; raises AdmissionError where the API server gives none."""
        shared = Counter(self._name(host) for host in hosts)
        listed: dict[str, list[object]] = {name: [] for name in shared}
        for item in self._api.nodes(next(iter(shared)) if len(shared) == 1 else ""):
            if (name := _name_of(item)) in listed:
                listed[name].append(item)
        found: dict[str, Standing | AdmissionError] = {}
        for host in hosts:
            try:
                self._nodes[host] = self._listed(host, listed[self._name(host)], shared[self._name(host)])
                found[host] = self._standing(self._nodes[host])
            except AdmissionError as error:
                found[host] = AdmissionError(f"{host}: {error}")
        return found

    def begin(self) -> None:
        """Nothing to make ready: the Nodes themselves hold the state."""

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        """Patch taint, label and annotations, many Nodes at once; done is what the API server's answer shows."""
        results = self._each(self._do, decisions)
        self._done = [each for each in decisions if results[each.host] is None]
        return results

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        """Set the condition of these nodes, and of those that were just let in or removed."""
        results = self._each(self._show, [*self._done, *decisions])
        self._done = []
        return {host: error for host, error in results.items() if error is not None}

    def _do(self, decision: Decision) -> None:
        def made(node: KubeNode) -> dict[str, Any]:
            if (stands := self._standing(node)) != decision.standing:
                raise AdmissionError(f"it was changed while this run decided ({_what(stands)}): run the gate again")
            now = datetime.now(UTC)
            if decision.action is Action.ADMIT:
                return kube.admission(node, self._run_id, now)
            return kube.removal(node, self._run_id, decision.checks, now, cordon=self._cordon)

        after = self._standing(self._patch(decision.host, self._api.patch, made))
        if after.inside is not (decision.action is Action.ADMIT):
            raise AdmissionError(f"the API server took the change, and the Node does not show it ({_what(after)})")

    def _show(self, decision: Decision) -> None:
        try:
            self._patch(
                decision.host,
                self._api.patch_status,
                lambda node: kube.condition(node, decision, self._run_id, datetime.now(UTC)),
            )
        except AdmissionError as error:
            done = ", though the decision was carried out" if decision in self._done else ""
            raise AdmissionError(f"its condition {kube.CONDITION} is not set{done}: {error}") from None

    def _patch(
        self, host: str, send: Callable[[str, dict[str, Any]], object], made: Callable[[KubeNode], dict[str, Any]]
    ) -> KubeNode:
        """The Node after the patch that `made` makes of it."""
        name = self._name(host)
        node = self._nodes.get(host) or self._read(name)
        answer = send(name, made(node))
        if answer is None:
            fresh = self._read(name)
            if fresh["metadata"]["uid"] != node["metadata"]["uid"]:
                raise AdmissionError("its Node was deleted and registered anew meanwhile: run the gate again")
            answer = send(name, made(fresh))
        if answer is None:
            raise AdmissionError("its Node was changed twice within this change: run the gate again")
        self._nodes[host] = _called(name, answer)
        return self._nodes[host]

    def _read(self, name: str) -> KubeNode:
        return _called(name, self._api.node(name))

    def _listed(self, host: str, items: Sequence[object], hosts: int) -> KubeNode:
        name = self._name(host)
        if hosts > 1:
            raise AdmissionError(f"{hosts} hosts are the one Node {name}: look at gpugate_node_name")
        if not items:
            raise AdmissionError(f"Kubernetes knows no Node {name}: register it, or set gpugate_node_name")
        if len(items) > 1:
            raise AdmissionError(f"the API server lists the Node {name} twice")
        return kube.parse(items[0])

    def _standing(self, node: KubeNode) -> Standing:
        return kube.standing(node, self._pool_taints)

    def _name(self, host: str) -> str:
        return self._names.get(host, host)

    def _each(
        self, work: Callable[[Decision], None], decisions: Sequence[Decision]
    ) -> dict[str, AdmissionError | None]:
        until = time.monotonic() + _CALLS_OF_A_RUN * self._api.timeout_s

        def one(decision: Decision) -> AdmissionError | None:
            if time.monotonic() > until:
                return AdmissionError(f"{decision.host}: not tried any more, because the API server takes too long")
            try:
                work(decision)
            except AdmissionError as error:
                return AdmissionError(f"{decision.host}: {error}")
            return None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip([each.host for each in decisions], pool.map(one, decisions), strict=True))


def _name_of(item: object) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _called(name: str, answer: object) -> KubeNode:
    node = kube.parse(answer)
    if node["metadata"]["name"] != name:
        raise AdmissionError(f"asked for the Node {name}, the API server answers with another one")
    return node


def _what(stands: Standing) -> str:
    return stands.owner or stands.busy or f"it is {'in' if stands.inside else 'out of'} service"
