"""Slurm: a node is taken out by a drain with gpugate's reason, and let in by taking back that drain and no other.

Slurm knows no compare-and-set. So before a change every node is read again and compared with what was decided on, and
after it every node is read once more; a person who is faster than the milliseconds between is not seen.

A drain is gpugate's while reason, user and time are those that it read back after draining and wrote down. Whoever
changes the reason, or undrains the node and drains it again, is its owner from then on. A node with the reason
`gpugate: not validated` is handed to gpugate, by whomever.

A node is let in by `State=UNDRAIN`, not `RESUME`: that would put a node that went DOWN meanwhile back into service too.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import AdmissionError, StateError
from ..report.text import shortened
from . import files
from .decision import Action, Decision
from .memory import Memory
from .scontrol import Scontrol
from .slurm_nodes import SlurmNode, standing
from .standing import Standing

_NAME = "slurm"
_MOST_REASON = 250
_FORBIDDEN = re.compile(r"[^ -~]|[\"'\\`]")  # scontrol strips quotes


@dataclass(frozen=True)
class _Seen:
    """A node, and what its state means."""

    node: SlurmNode
    standing: Standing


class Slurm:
    """Back end over scontrol. `names` is what Slurm calls a host where that is not its inventory name; `lock` a path
    beside which this controller's runs wait for each other."""

    def __init__(self, scontrol: Scontrol, memory: Memory, run_id: str, names: Mapping[str, str], lock: Path) -> None:
        self._scontrol, self._memory, self._run_id, self._names, self._lock = scontrol, memory, run_id, names, lock

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        """Where each node stands, by one call; raises AdmissionError where slurmctld does not answer."""
        seen = self._look(hosts)
        return {host: each if isinstance(each, AdmissionError) else each.standing for host, each in seen.items()}

    def begin(self) -> None:
        """Nothing to make ready: Slurm keeps the state."""

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        """Drain and undrain many nodes by few calls, and look whether it was done."""
        try:
            with files.locked(self._lock):
                return self._carry_out(decisions)
        except OSError as error:
            raise AdmissionError(f"the lock beside {self._lock} cannot be had: {error.strerror or error}") from error

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        """Nothing: a node's reason belongs to whoever drained it, and its comment to the site."""
        return {}

    def _carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        before = self._look([each.host for each in decisions])
        results: dict[str, AdmissionError | None] = {}
        due: dict[str, tuple[Decision, str]] = {}
        for each in decisions:
            found = before[each.host]
            if isinstance(found, AdmissionError):
                results[each.host] = found
            elif found.standing != each.standing:
                results[each.host] = AdmissionError(
                    f"{each.host}: its state in Slurm changed while this run decided; run admit.yml again"
                )
            else:
                due[each.host] = each, found.node.name
        refused = self._change(due)
        try:
            after: Mapping[str, _Seen | AdmissionError] = self._look(list(due))
        except (AdmissionError, StateError) as error:
            after = dict.fromkeys(due, AdmissionError(f"nobody knows what became of it: {error}"))
        for host, (decision, node) in due.items():
            results[host] = self._result(decision, after[host], refused.get(node))
        self._remember(due, after, results)
        return results

    def _change(self, due: Mapping[str, tuple[Decision, str]]) -> dict[str, AdmissionError]:
        """Whom Slurm refused, by node."""
        drains: defaultdict[str, list[str]] = defaultdict(list)
        undrains = []
        for decision, node in due.values():
            if decision.action is Action.REMOVE:
                drains[self._reason(decision)].append(node)
            else:
                undrains.append(node)
        self._memory.own(_NAME, {host: json.dumps({"reason": self._reason(decision)}) for host, (decision, _)
                                 in due.items() if decision.action is Action.REMOVE}, datetime.now(UTC))  # fmt: skip
        refused: dict[str, AdmissionError] = {}
        for reason, nodes in drains.items():
            refused |= self._scontrol.update(nodes, "State=DRAIN", f"Reason={reason}")
        if undrains:
            refused |= self._scontrol.update(undrains, "State=UNDRAIN")
        return refused

    def _result(
        self, decision: Decision, after: _Seen | AdmissionError, refused: AdmissionError | None
    ) -> AdmissionError | None:
        if isinstance(after, AdmissionError):
            return after
        node = after.node
        if decision.action is Action.ADMIT and node.inside:
            return None
        if decision.action is Action.REMOVE and node.drained and node.reason == self._reason(decision):
            return None
        what = "undrained" if decision.action is Action.ADMIT else "drained with gpugate's reason"
        stands = "+".join([node.base, *sorted(node.flags)])
        why = f": {refused}" if refused else "; somebody else may have changed it just now"
        return AdmissionError(f"{decision.host}: it is not {what}, Slurm has it as {stands}{why}")

    def _remember(
        self,
        due: Mapping[str, tuple[Decision, str]],
        after: Mapping[str, _Seen | AdmissionError],
        results: dict[str, AdmissionError | None],
    ) -> None:
        """Write down whose each drain is. What could not be looked at stays half written, and matches nothing."""
        owned, gone = {}, []
        for host, (decision, _) in due.items():
            found = after[host]
            if isinstance(found, _Seen) and results[host] is None and decision.action is Action.REMOVE:
                owned[host] = json.dumps(found.node.mark)
            elif isinstance(found, _Seen) and results[host] is None:
                gone.append(host)
        try:
            self._memory.own(_NAME, owned, datetime.now(UTC))
            self._memory.disown(_NAME, gone)
        except StateError as error:
            for host in owned:
                results[host] = AdmissionError(
                    f"{host}: drained, but that could not be written down, so that gpugate will not undrain it: {error}"
                )

    def _look(self, hosts: Sequence[str]) -> dict[str, _Seen | AdmissionError]:
        nodes, owned = self._scontrol.nodes(), self._memory.owned(_NAME)
        names = {host: self._name_of(host, nodes) for host in hosts}
        times = defaultdict(list)
        for host, name in names.items():
            times[name].append(host)
        found: dict[str, _Seen | AdmissionError] = {}
        for host, name in names.items():
            node = nodes.get(name)
            if len(times[name]) > 1:
                found[host] = AdmissionError(f"{' and '.join(times[name])} are both the node {name} in Slurm")
            elif node is None or name.casefold() == "all":  # `scontrol update NodeName=ALL` is every node
                found[host] = AdmissionError(
                    f"{host} is unknown to Slurm (no node is called {name}): set gpugate_node_name"
                )
            elif isinstance(node, AdmissionError):
                found[host] = AdmissionError(f"{host}: {node}: look at it (scontrol show node {name})")
            else:
                found[host] = _Seen(node, standing(node, _mark(owned.get(host))))
        return found

    def _name_of(self, host: str, nodes: Mapping[str, object]) -> str:
        """What the inventory says, else the same name, else the one without its domain."""
        if host in self._names:
            return self._names[host]
        return host if host in nodes else host.partition(".")[0]

    def _reason(self, decision: Decision) -> str:
        """One line for all nodes that failed the same checks, so that one call drains them."""
        checks, run = ", ".join(f"{check} FAIL" for check in decision.checks), f" (run {self._run_id})"
        told = shortened(checks, _MOST_REASON - len("gpugate: ") - len(run))
        return _FORBIDDEN.sub("?", f"gpugate: {told}{run}")


def _mark(token: str | None) -> dict[str, str] | None:
    """A drain as it was written down; what somebody scribbled into the store is none."""
    try:
        mark = json.loads(token or "null")
    except ValueError:
        return None
    return mark if isinstance(mark, dict) else None
