"""The command hook: any program that can put a node into service, take it out, and say which it is.

The contract. The command is a list of arguments, run on the controller without a shell; `{host}`, `{action}`,
`{reason}` and `{report}` stand for the host's inventory name, one of `status`, `admit` and `remove`, the reasons on one
line (at most 1000 characters; empty with `status`), and the path of the report. Both `{host}` and `{action}` have to be
in it. Standard input is empty.

    exit 0          done. With `status`, standard output is one line: `in`, `out`, or `kept out: WHO AND WHY` for a
                    node that somebody else took out. gpugate never lets that one in.
    anything else   not done; the last line of standard error says why.

The command may be called again for what is already done, and has to answer 0 then. It is ended, with all that it
started, when it takes longer than its time. Several hosts are asked and changed at once, each by a process of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import AdmissionError
from ..report.text import one_line
from .decision import Action, Decision
from .standing import Standing

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_KNOWN = {"host", "action", "reason", "report"}
_AT_ONCE = 16
_KEPT = "kept out: "


class CommandHook:
    """Back end over a command; `timeout_s` is for each call. Raises AdmissionError for a command that cannot be one."""

    def __init__(self, command: Sequence[str], report: Path, timeout_s: float = 30.0) -> None:
        used = {name for part in command for name in _PLACEHOLDER.findall(part)}
        if unknown := used - _KNOWN:
            raise AdmissionError(
                f"gpugate_admission_command has {{{sorted(unknown)[0]}}}; known are {{host}}, {{action}}, {{reason}}, "
                "{report}"
            )
        if not {"host", "action"} <= used:
            raise AdmissionError("gpugate_admission_command needs {host} and {action} among its arguments")
        self._command, self._report, self._timeout_s = list(command), report, timeout_s

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        """Ask the command for the status of each host."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(hosts, pool.map(self._status, hosts), strict=True))

    def begin(self) -> None:
        """Nothing to make ready: the command keeps its own state."""

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        """Call the command for each decision, and ask afterwards whether it holds."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip([each.host for each in decisions], pool.map(self._do, decisions), strict=True))

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        """Nothing: the command is called for changes alone."""
        return {}

    def _status(self, host: str) -> Standing | AdmissionError:
        try:
            answer = self._call(host, "status", "").strip()
        except AdmissionError as error:
            return error
        if answer in ("in", "out"):
            return Standing(answer == "in")
        why = one_line(answer.removeprefix(_KEPT))
        if answer.startswith(_KEPT) and why and "\n" not in answer:
            return Standing(False, owner=why[:500])
        return AdmissionError(f"{host}: status answered {one_line(answer)[:100]!r} instead of in, out or kept out: WHY")

    def _do(self, decision: Decision) -> AdmissionError | None:
        host, wanted = decision.host, Standing(decision.action is Action.ADMIT)
        before = self._status(host)
        if isinstance(before, AdmissionError):
            return before
        if before != decision.standing:
            return AdmissionError(f"{host}: its state changed while this run decided; run admit.yml again")
        try:
            self._call(host, decision.action.value, one_line("; ".join(decision.reasons))[:1000])
        except AdmissionError as error:
            return error
        after = self._status(host)
        if isinstance(after, AdmissionError):
            return after
        if after != wanted:
            return AdmissionError(
                f"{host}: {decision.action} exited 0, and status still says {'in' if after.inside else 'out'}"
            )
        return None

    def _call(self, host: str, action: str, reason: str) -> str:
        if host.startswith("-"):
            raise AdmissionError(f"{host}: a host name that begins with a dash would be read as an option")
        values = {"host": host, "action": action, "reason": reason, "report": str(self._report)}
        arguments = [_PLACEHOLDER.sub(lambda match: values[match[1]], part) for part in self._command]
        try:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
        except (OSError, ValueError) as error:
            raise AdmissionError(f"{host}: {arguments[0]} cannot be run for {action}: {error}") from error
        with process:
            try:
                output, problem = process.communicate(timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AdmissionError(
                    f"{host}: {action} took longer than {self._timeout_s:g} s and was ended; nobody knows what it did"
                ) from None
        if process.returncode:
            lines = problem.decode(errors="replace").strip().splitlines() or ["it said nothing on standard error"]
            raise AdmissionError(f"{host}: {action} exited {process.returncode}: {one_line(lines[-1])[:500]}")
        return output.decode(errors="replace")
