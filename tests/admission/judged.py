"""A site of three nodes whose report our own writer wrote, and the gate over it as the action plugin runs it.

In truth gpu0 and gpu1 are healthy and outside, and gpu2 is in service with a GPU that is too hot: an honest report lets
two in and takes one out.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.playbook.task import Task
from gpugate.evidence.codec import serialise
from gpugate.evidence.types import Evidence
from gpugate.policy import CATALOGUE, Policy, policy_from_variables
from gpugate.report import HostReport, Run, Signer, Store, basis_of, identity_of, new_run_id
from gpugate.report.manifest import MANIFEST
from gpugate.verdict import Verdict
from healthy import VARIABLES, healthy, with_fact
from runs import failed, passed

PROJECT = Path(__file__).parents[2]
HOSTS = ("gpu0", "gpu1", "gpu2")
CHECKS = {"thermal.headroom": "evict", "errors.ecc": "admit", "errors.xid": "admit", "host.clock": "admit"}
NOW = time.time()
_SINCE_LONG = {"in_service": True, "since": "2026-01-31T12:00:00Z", "by": "ada", "why": "green", "run_id": "",
               "report_sha256": ""}  # fmt: skip


def _action() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_admission_action", PROJECT / "plugins/action/gpu_admission.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ActionModule


ACTION = _action()


@cache
def document(host: str, age_s: float = 60.0) -> tuple[Evidence, bytes]:
    """A host's evidence, measured so long ago."""
    evidence = with_fact(healthy(host, 1), "host.machine_id", sha256(host.encode())[:32])
    evidence = with_fact(evidence, "started_unix_s", NOW - age_s)
    return evidence, serialise(evidence)


def policy_of(host: str, variables: Mapping[str, Any]) -> Policy:
    """The policy that a host's variables mean."""
    return policy_from_variables(host, variables)


@dataclass
class Site:
    """Three nodes. `variables` are every host's, `identities` what each answers now, `options` those of the task."""

    folder: Path
    key: Path | None
    variables: dict[str, Any]
    identities: dict[str, dict[str, Any]]
    options: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    signed_by: Path | None = None

    @property
    def run(self) -> Path:
        """The folder of the report that the gate will read."""
        return Path(self.options["report"]).parent.resolve()

    @property
    def junit(self) -> Path:
        """The report that the gate will read."""
        return self.run / "junit.xml"

    @property
    def signers(self) -> Path:
        """Whose signatures count."""
        return self.folder / "allowed_signers"

    @property
    def state(self) -> Path:
        """The state file."""
        return self.folder / "state" / "admission.json"

    @property
    def in_service(self) -> set[str]:
        """Who is in service, by the state file as a site's own program would read it."""
        try:
            hosts = json.loads(self.state.read_text())["hosts"]
        except (OSError, ValueError):
            return set()
        return {host for host, entry in hosts.items() if entry["in_service"]}

    def write(
        self,
        *red: Verdict,
        age_s: float = 120.0,
        measured_s: float = 60.0,
        profile: Any = "admission",
        spoil: Callable[[Run], Run] = lambda run: run,
        **changes: Any,
    ) -> Path:
        """Write a run of all hosts by our own writer, honest but for `red` and `spoil`: its folder, now the latest."""
        started = datetime.fromtimestamp(NOW - age_s, UTC)
        policies = {host: policy_of(host, self.variables) for host in HOSTS}
        hosts, evidence = [], {}
        for host, policy in policies.items():
            known, evidence[host] = document(host, measured_s)
            verdicts = {check: passed(host, check) for check in policy.expected(profile)}
            if "thermal.headroom" in verdicts and host == "gpu2":
                verdicts["thermal.headroom"] = replace(failed(host), level="evict")
            verdicts |= {verdict.check: verdict for verdict in red if verdict.host == host}
            identity = identity_of(policy, known, sha256(evidence[host]))
            hosts.append(HostReport(host, identity, list(verdicts.values())))
        checks = {"checks/thermal.py": "ab" * 32}
        told: dict[str, Any] = {"run_id": new_run_id(started), "started": started, "profile": profile, "scope": "whole",
                                "hosts": hosts, "basis": basis_of(policies, profile, checks)}  # fmt: skip
        run = spoil(Run(**told | changes))
        key = self.signed_by or self.key
        return Store(self.folder / "reports").write(run, evidence, Signer(key) if key else None)

    def edit(self, *changes: tuple[str, str], times: int = 1, path: Path | None = None) -> None:
        """Replace texts in the report (or another file of the run), each of which has to be there."""
        path = path or self.junit
        text = path.read_text()
        for before, after in changes:
            assert before in text, before
            text = text.replace(before, after, times)
        path.write_text(text)

    def suite(self, host: str) -> str:
        """A host's suite, as it stands in the report."""
        text = self.junit.read_text()
        [found] = [part for part in text.split("<testsuite ")[1:] if f'hostname="{host}"' in part]
        return "<testsuite " + found[: found.index("</testsuite>")] + "</testsuite>\n"

    def case(self, host: str, check: str) -> str:
        """One cell of a host, as it stands in the report."""
        [found] = [part for part in self.suite(host).split("<testcase ")[1:] if f'name="{check}[{host}]"' in part]
        return "<testcase " + found[: found.index("</testcase>")] + "</testcase>"

    def sign_again(self) -> None:
        """Sign the manifest as it is now, as whoever has a good key can."""
        assert self.key is not None
        (self.run / f"{MANIFEST}.sig").write_bytes(Signer(self.key).sign((self.run / MANIFEST).read_bytes()))

    def gate(self, **options: Any) -> dict[str, Any]:
        """Run the gate; raises AnsibleActionFail where it refuses the report, or cannot decide."""
        hostvars = {host: deepcopy(self.variables) | {"node_identity": {"identity": self.identities[host]}}
                    for host in HOSTS}  # fmt: skip
        task = Task()
        task.args = self.options | options
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="never used"))
        action = ACTION(task, connection, None, None, None)
        result: dict[str, Any] = action.run(task_vars={"hostvars": hostvars, "ansible_play_hosts_all": list(HOSTS)})
        return result


def site_in(folder: Path, key: Path | None) -> Site:
    """A site with an honest report of now; where there is a key, signed by it, and the gate asks for that."""
    folder.mkdir()
    variables = VARIABLES | {"gpugate_gpu_count": 1, "gpugate_checks": dict.fromkeys(CATALOGUE, "absent") | CHECKS}
    identities = {}
    for host in HOSTS:
        known, _ = document(host)
        identities[host] = {"machine_id": known.host.machine_id, "boot_id": known.host.boot_id,
                            "gpu_uuids": [gpu.uuid for gpu in known.gpus]}  # fmt: skip
    options: dict[str, Any] = {"report": str(folder / "reports/latest/junit.xml"),
                               "state": str(folder / "state/admission.json")}  # fmt: skip
    site = Site(folder, key, variables, identities, options)
    if key is not None:
        options["allowed_signers"] = str(site.signers)
        site.signers.write_text(f"controller@site {public(key)}\n")
    site.state.parent.mkdir()
    site.state.write_text(json.dumps({"schema": 1, "hosts": {"gpu2": _SINCE_LONG}}))
    site.write()
    return site


def public(key: Path) -> str:
    """The public half of a key, as a signers file has it."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def sha256(data: bytes) -> str:
    """Its sha256, hex."""
    return hashlib.sha256(data).hexdigest()
