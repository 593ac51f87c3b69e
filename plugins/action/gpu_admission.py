"""gpu_admission on the controller; plugins/modules/gpu_admission.py documents it."""

from __future__ import annotations

import getpass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

try:
    from gpugate.admission import AdmissionBackend, Audit, Carried, CommandHook, Node, StateFile, carry, present_from
    from gpugate.errors import GpugateError
    from gpugate.provision import host_policy
    from gpugate.report.reader import Report, read_report
    from gpugate.report.text import fold
except ImportError as error:
    raise AnsibleActionFail(
        f"gpugate is not installed for the Python that runs Ansible ({error}): run `pip install .` in the project's "
        "root with that Python"
    ) from error

ARGUMENTS = {
    "report": {"type": "path", "required": True},
    "backend": {"type": "str", "choices": ["state_file", "command"], "default": "state_file"},
    "state": {"type": "path", "required": True},
    "command": {"type": "list", "elements": "str"},
    "timeout_s": {"type": "float", "default": 30.0},
    "identities": {"type": "str", "default": "node_identity"},
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
            argument_spec=ARGUMENTS, required_if=[("backend", "command", ["command"])]
        )
        try:
            report = read_report(Path(options["report"]))
            nodes = [_node(host, variables["hostvars"], options) for host in variables["ansible_play_hosts_all"]]
            by = getpass.getuser()
            backend, audit = _backend(options, report, by)
            now = datetime.now().astimezone()
            carried = carry(report, nodes, backend, audit, now, check=self._task.check_mode)
        except GpugateError as error:
            raise AnsibleActionFail(str(error)) from None
        for line in [*carried.lines, f"report: {options['report']} (run {report.run_id})"]:
            self._display.display(line)
        return _result(carried, report, options)


def _node(host: str, hostvars: Any, options: dict[str, Any]) -> Node:
    variables = hostvars[host]
    try:
        policy = host_policy(host, variables, lambda value: value)  # hostvars are templated as they are read
        asked = variables.get(options["identities"])
    except AnsibleError as error:
        raise AnsibleActionFail(f"{host}: a gpugate_ variable cannot be templated: {error.message}") from None
    return Node(host, policy, present_from(asked))


def _backend(options: dict[str, Any], report: Report, by: str) -> tuple[AdmissionBackend, Audit]:
    state = Path(options["state"])
    if options["backend"] == "command":
        audit = state.with_name(f"{state.stem}.command.audit.jsonl")
        return CommandHook(options["command"], Path(options["report"]), options["timeout_s"]), Audit(audit, report, by)
    audit = state.with_name(f"{state.stem}.audit.jsonl")
    return StateFile(state, audit, by=by, run_id=report.run_id, report_sha256=report.sha256), Audit(audit, report, by)


def _result(carried: Carried, report: Report, options: dict[str, Any]) -> dict[str, Any]:
    wrong = [str(problem) for problem in carried.problems.values()]
    if options["fail_on_refusal"] and carried.refused:
        wrong.append(f"refused: {fold(carried.refused)}")
    result: dict[str, Any] = {
        "changed": bool(carried.changed),
        "report_sha256": report.sha256,
        "run_id": report.run_id,
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
