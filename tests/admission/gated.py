"""What the gate is given where its back end is real: reports that are green but for some nodes; what was decided."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from gpugate.admission import Carried
from gpugate.report import HostReport, new_run_id
from gpugate.report.reader import Report, parse_report
from healthy import policy
from runs import failed, passed, run_of, written

POLICY = policy(checks={"thermal.headroom": "evict"}, greens_to_return=1)


def report_on(hosts: Sequence[str], red: Collection[str] = ()) -> Report:
    """A report of now, written and read back, in which everything is green but thermal.headroom of `red`."""
    now = datetime.now().astimezone()
    identity = {"machine_id": "m-1", "boot_id": "b-1", "policy_digest": POLICY.digest,
                "measured_unix_s": f"{now.timestamp():.3f}"}  # fmt: skip
    reports = []
    for host in hosts:
        verdicts = {check: passed(host, check) for check in POLICY.expected("admission")}
        if host in red:
            verdicts["thermal.headroom"] = failed(host)
        reports.append(HostReport(host, identity | {"gpu_uuids": f"GPU-{host}"}, list(verdicts.values())))
    return parse_report(written(run_of(hosts=reports, started=now, run_id=new_run_id(now))))


def actions(carried: Carried) -> dict[str, str]:
    """What was decided, by host; an AssertionError where it was not done."""
    assert carried.problems == {}
    return {each.host: each.action.value for each in carried.decisions}
