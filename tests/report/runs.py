"""Runs to write reports of."""

from __future__ import annotations

from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

from gpugate.policy import Waiver
from gpugate.report import HostReport, Run, new_run_id
from gpugate.report.junit import write_junit
from gpugate.verdict import Finding, Next, Outcome, Verdict
from gpugate.verdict.types import GpuName

STARTED = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
WAIVER = Waiver(check="thermal.*", host="gpu1", who="Ada", why="fan on order", ticket="OPS-7", expires=date(2031, 1, 2))


def finding(gpu: int, measured: Any = 12.5, *, ok: bool = True, marginal: bool = False) -> Finding:
    """A finding of thermal headroom on one GPU."""
    name = GpuName(gpu, f"GPU-{gpu:08x}-aaaa-bbbb-cccc-0123456789ab", f"165{gpu}", f"00000000:{gpu + 16:02x}:00.0")
    return Finding(
        "headroom", measured, "C", "at least 5 C", "policy gpugate_headroom_c", ok, marginal, name, Next.COOLING
    )


def passed(host: str, check: str = "thermal.headroom") -> Verdict:
    """A PASS on two GPUs."""
    return Verdict(host, check, Outcome.PASS, "admit", (finding(0), finding(1)), seconds=0.25)


def failed(host: str, check: str = "thermal.headroom", measured: float = 1.5) -> Verdict:
    """A FAIL of GPU 1."""
    return Verdict(host, check, Outcome.FAIL, "admit", (finding(0), finding(1, measured, ok=False)))


def without(host: str, check: str, outcome: Outcome, reason: str) -> Verdict:
    """An ERROR or MISSING with its reason."""
    return Verdict(host, check, outcome, "admit", reason=reason, next=Next.RERUN)


def waived(host: str, check: str = "thermal.headroom") -> Verdict:
    """A FAIL that is waived."""
    findings = (finding(0), finding(1, 1.5, ok=False))
    return Verdict(host, check, Outcome.WAIVED, "admit", findings, waiver=WAIVER, waived=Outcome.FAIL)


def run_of(*verdicts: Verdict, identity: dict[str, str] | None = None, **changes: Any) -> Run:
    """A whole admission run with these verdicts, hosts in order of appearance."""
    hosts = dict.fromkeys(verdict.host for verdict in verdicts)
    reports = [HostReport(host, identity or {}, [v for v in verdicts if v.host == host]) for host in hosts]
    known: dict[str, Any] = {"run_id": new_run_id(STARTED), "started": STARTED, "profile": "admission",
                             "scope": "whole", "hosts": reports}  # fmt: skip
    return Run(**known | changes)


def every_outcome() -> Run:
    """Two hosts with all five outcomes, a marginal PASS, and texts that XML and terminals would trip over."""
    marginal = Verdict("gpu0", "memory.margin", Outcome.PASS, "admit", (finding(0, 6.0, marginal=True),))
    return run_of(
        passed("gpu0"),
        marginal,
        without("gpu0", "errors.xid", Outcome.ERROR, 'the log <tail> & "head" held \x1b[31m, \ud800 and \u202e'),
        failed("gpu1", "thermal.siblings"),
        waived("gpu1"),
        without("gpu1", "errors.ecc", Outcome.MISSING, "gpu1: connection refused"),
        identity={"machine_id": "cd" * 16, "boot_id": "b-1", "policy_digest": "ef" * 32, "gpu_uuids": "GPU-1,GPU-2"},
    )


def written(run: Run) -> bytes:
    """The JUnit file of a run."""
    stream = BytesIO()
    write_junit(run, stream)
    return stream.getvalue()
