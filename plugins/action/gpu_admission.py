"""gpu_admission on the controller; plugins/modules/gpu_admission.py documents it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

try:
    from gpugate.admission import Carried, Memory, Node, Site, carry, limits_from, open_backend, present_from
    from gpugate.admission.site import Run
    from gpugate.admission.standing import Standing
    from gpugate.errors import AdmissionError, GpugateError
    from gpugate.provision import host_policy
    from gpugate.report import Signers, new_run_id
    from gpugate.report.reader import Report, read_report
    from gpugate.report.signed import read_signed
    from gpugate.report.text import fold
    from gpugate.state.store import Store
except ImportError as error:
    raise AnsibleActionFail(
        f"gpugate is not installed for the Python that runs Ansible ({error}): run `pip install .` in the project's "
        "root with that Python"
    ) from error

ARGUMENTS = {
    "report": {"type": "path", "required": True},
    "allowed_signers": {"type": "path"},
    "revoked_signers": {"type": "path"},
    "hosts": {"type": "list", "elements": "str"},
    "ask": {"type": "bool", "default": False},
    "backend": {"type": "str", "choices": ["state_file", "command", "slurm", "kubernetes"], "default": "state_file"},
    "state": {"type": "path", "required": True},
    "store": {"type": "path"},
    "command": {"type": "list", "elements": "str"},
    "timeout_s": {"type": "float", "default": 30.0},
    "kubeconfig": {"type": "str"},
    "context": {"type": "str"},
    "pool_taints": {"type": "list", "elements": "str", "default": ["nvidia.com/gpu"]},
    "cordon": {"type": "bool", "default": False},
    "identities": {"type": "str", "default": "node_identity"},
    "breaker": {"type": "dict", "default": {}},
    "approved_removals": {"type": "str", "default": ""},
    "fail_on_refusal": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Decides once for all hosts of the play; connects to none of them."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was decided and done; fails where a report cannot be read or a back end failed."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(
            argument_spec=ARGUMENTS,
            required_if=[("backend", "command", ["command"]), ("backend", "kubernetes", ["kubeconfig"])],
        )
        try:
            now = datetime.now().astimezone()
            report = _nobodys(now) if options["ask"] else _report(options, self._task.args, variables)
            nodes = [_node(host, variables["hostvars"], options) for host in _hosts(options, variables)]
            look_only = self._task.check_mode or options["ask"]
            memory = _memory(options, look_only)
            names = _node_names({node.host: variables["hostvars"][node.host] for node in nodes})
            run = Run(getpass.getuser(), report, Path(options["report"]), names)
            backend, audit = open_backend(_site(options), run, memory)
            if options["ask"]:
                return {"changed": False, "standings": _standings(backend.standings([node.host for node in nodes]))}
            carried = carry(
                report, nodes, backend, audit, memory, now, check=look_only,
                limits=limits_from(options["breaker"]), approved=options["approved_removals"],
            )  # fmt: skip
        except GpugateError as error:
            raise AnsibleActionFail(str(error)) from None
        for line in [*carried.lines, *carried.alerts, f"report: {options['report']} ({_about(report)})"]:
            self._display.display(line)
        return _result(carried, report, options)


def _nobodys(now: datetime) -> Report:
    """A report of nobody: who only asks where nodes stand needs none."""
    return Report("", new_run_id(now), now, "admission", "partial", "nothing is decided by it", {})


def _standings(found: Mapping[str, Standing | AdmissionError]) -> dict[str, Any]:
    """Where each node stands, as Ansible returns it; `problem` where the back end cannot tell."""
    return {
        host: {"problem": str(seen)} if isinstance(seen, AdmissionError)
        else {"in_service": seen.inside, "owner": seen.owner, "busy": seen.busy}
        for host, seen in found.items()
    }  # fmt: skip


def _hosts(options: dict[str, Any], variables: dict[str, Any]) -> list[str]:
    hosts: list[str] = options["hosts"] if options["hosts"] is not None else variables["ansible_play_hosts_all"]
    if not hosts:
        raise AnsibleActionFail("hosts is empty: there is nobody to decide on")
    return hosts


def _report(options: dict[str, Any], given: dict[str, Any], variables: dict[str, Any]) -> Report:
    """The report; where this task, or the inventory for any host, has allowed signers, with its signature.

    What was meant to ask for a signature, and names no file or another one, is an error and never a report unsigned.
    """
    path, allowed, revoked = Path(options["report"]), options["allowed_signers"], options["revoked_signers"]
    for name, value in (("allowed_signers", allowed), ("revoked_signers", revoked)):
        variable = f"gpugate_{name}"
        if name in given and not value:
            raise AnsibleActionFail(f"{variable} is empty: name the file, or leave the variable out")
        hosts = [variables["hostvars"][host] for host in variables["ansible_play_hosts_all"]]
        meant = {_expanded(host[variable]) for host in hosts if variable in host}
        if meant - {value}:
            raise AnsibleActionFail(
                f"{variable} is {', '.join(sorted(meant))} for some hosts, and {value or 'nothing'} for this task: one "
                "report has one file of them, so give it to all hosts alike"
            )
    if revoked and not allowed:
        raise AnsibleActionFail("gpugate_revoked_signers without gpugate_allowed_signers checks nothing: give both")
    if not allowed:
        return read_report(path)
    return read_signed(path, Signers(Path(allowed), Path(revoked) if revoked else None))


def _expanded(path: object) -> str:
    return os.path.expanduser(os.path.expandvars(str(path)))  # noqa: PTH111  # as Ansible reads options of the type path


def _about(report: Report) -> str:
    return f"run {report.run_id}, signed by {report.signer}" if report.signer else f"run {report.run_id}, unsigned"


def _node(host: str, hostvars: Any, options: dict[str, Any]) -> Node:
    variables = hostvars[host]
    try:
        policy = host_policy(host, variables, lambda value: value)  # hostvars are templated as they are read
        asked = variables.get(options["identities"])
    except AnsibleError as error:
        raise AnsibleActionFail(f"{host}: a gpugate_ variable cannot be templated: {error.message}") from None
    return Node(host, policy, present_from(asked), _domains(host, variables.get("gpugate_failure_domain")))


def _domains(host: str, value: object) -> tuple[str, ...]:
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise AnsibleActionFail(f"{host}: gpugate_failure_domain: {value!r} is neither a name nor a list of names")
    return tuple(map(str, names))


def _node_names(hostvars: dict[str, Any]) -> dict[str, str]:
    """What Slurm or Kubernetes calls a host, where the inventory says so."""
    names = {host: variables["gpugate_node_name"] for host, variables in hostvars.items()
             if variables.get("gpugate_node_name") is not None}  # fmt: skip
    for host, name in names.items():
        if not isinstance(name, str) or not name:
            raise AnsibleActionFail(f"{host}: gpugate_node_name: {name!r} is no name")
    return {host: str(name) for host, name in names.items()}


def _memory(options: dict[str, Any], look_only: bool) -> Memory:
    default = Path(options["state"]).with_name("gpugate.sqlite")
    if not (options["store"] or look_only):
        try:
            default.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AnsibleActionFail(f"the folder {default.parent} cannot be made: {error.strerror}") from None
    return Memory(Store(Path(options["store"] or default)), look_only=look_only)


def _site(options: dict[str, Any]) -> Site:
    return Site(
        backend=options["backend"],
        state=Path(options["state"]),
        command=tuple(options["command"] or ()),
        timeout_s=options["timeout_s"],
        kubeconfig=options["kubeconfig"] or "",
        context=options["context"] or "",
        pool_taints=tuple(options["pool_taints"]),
        cordon=options["cordon"],
    )


def _result(carried: Carried, report: Report, options: dict[str, Any]) -> dict[str, Any]:
    wrong = [carried.tripped] if carried.tripped else []
    wrong += map(str, carried.problems.values())
    if options["fail_on_refusal"] and carried.refused:
        wrong.append(f"refused: {fold(carried.refused)}")
    result: dict[str, Any] = {
        "changed": bool(carried.changed),
        "report_sha256": report.sha256,
        "run_id": report.run_id,
        "signer": report.signer,
        "diff": {"before": carried.states(after=False), "after": carried.states(after=True)},
    }
    if wrong:  # Ansible shows a failed result whole, and the lines have said it all
        return result | {"failed": True, "msg": "; ".join(wrong)}
    decisions = {
        each.host: {
            "action": each.action.value,
            "would": each.would.value if each.would else None,
            "reasons": list(each.reasons),
            "in_service": each.in_service,
        }
        for each in carried.decisions
    }
    return result | {"decisions": decisions}
