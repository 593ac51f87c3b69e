"""A node's Ansible variables to its Policy, with errors that name the variable."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import TypeAdapter, ValidationError

from ..errors import PolicyError
from ..evidence.request import MOST_S
from .boards import BOARDS
from .catalogue import CATALOGUE
from .types import Policy

PREFIX = "gpugate_"
# Variables of ours that say where things are, not what a healthy node is.
NOT_POLICY = {"gpugate_hosts", "gpugate_node_root", "gpugate_probe_python", "gpugate_probe_user", "gpugate_driver_root",
              "gpugate_failure_domain", "gpugate_admission_backend", "gpugate_admission_command",
              "gpugate_admission_state", "gpugate_admission_timeout_s", "gpugate_approved_removals",
              "gpugate_admission_context", "gpugate_admission_cordon", "gpugate_admission_kubeconfig",
              "gpugate_admission_pool_taints",
              "gpugate_breaker", "gpugate_fail_on_refusal",
              "gpugate_max_fail_percentage", "gpugate_probe", "gpugate_reports", "gpugate_serial",
              "gpugate_allowed_signers", "gpugate_revoked_signers", "gpugate_signing_key",
              "gpugate_node_name", "gpugate_report", "gpugate_ssh", "gpugate_state_file"}  # fmt: skip
FIELDS = {field.name for field in fields(Policy)}
_POLICY = TypeAdapter(Policy)
_CHECK = re.compile(r"\w+\.\w+")


def policy_from_variables(host: str, variables: Mapping[str, Any]) -> Policy:
    """The policy of one host; raises PolicyError naming the host, the variable and what is allowed."""
    given = {}
    for name, value in variables.items():
        if not name.startswith(PREFIX) or name in NOT_POLICY:
            continue
        key = name.removeprefix(PREFIX)
        if key not in FIELDS:
            close = difflib.get_close_matches(key, FIELDS, 1)
            hint = f"; did you mean {PREFIX}{close[0]}?" if close else ""
            raise PolicyError(f"{host}: {name} is no policy variable{hint} (docs/policy.md lists them)")
        given[key] = value
    try:
        return _policy(json.dumps(given, default=str))
    except PolicyError as error:
        raise PolicyError(f"{host}: {error}") from error


@lru_cache(maxsize=4096)  # most hosts of a fleet have one of a few policies, and a policy is frozen
def _policy(given: str) -> Policy:
    """The policy of variables without their prefix, as JSON; raises PolicyError naming the variable.

    Through JSON, so that strictness is about meaning: whole numbers are floats too, dates are written as texts.
    """
    try:
        policy = _POLICY.validate_json(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = PREFIX + ".".join(map(str, first["loc"]))
        text = isinstance(first["input"], str) and first["type"] in ("float_type", "int_type", "bool_type")
        hint = f"; {first['input']!r} is a text: with -e write JSON, -e '{{\"{place}\": ...}}'" if text else ""
        raise PolicyError(f"{place}: {first['msg']}{hint} (docs/policy.md lists the variables)") from error
    _check_meaning(policy)
    return policy


def _check_meaning(policy: Policy) -> None:
    boards = BOARDS | policy.boards
    if policy.board not in boards:
        close = difflib.get_close_matches(policy.board, boards, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise PolicyError(
            f"gpugate_board: no board is called {policy.board!r}{hint} (known: {', '.join(sorted(boards))}; "
            "add yours under gpugate_boards)"
        )
    if not 1 <= policy.gpu_count <= 64:
        raise PolicyError(f"gpugate_gpu_count: {policy.gpu_count} is not between 1 and 64")
    try:
        SpecifierSet(policy.driver_allowed)
    except InvalidSpecifier as error:
        raise PolicyError(f"gpugate_driver_allowed: {error} (write '>=550.90', '==550.*', ...)") from error
    if not policy.driver_allowed:
        raise PolicyError("gpugate_driver_allowed is empty: say which versions may run ('>=550.90')")
    if not policy.cuda_versions:
        raise PolicyError("gpugate_cuda_versions is empty: say which CUDA versions the node has to run")
    for name, versions in (("cuda_versions", policy.cuda_versions), ("driver_denied", policy.driver_denied)):
        for version in versions:
            try:
                Version(version)
            except InvalidVersion as error:
                raise PolicyError(f"gpugate_{name}: {version!r} is no version") from error
    for name in ("headroom_c", "memory_headroom_c", "power_share", "siblings_c", "clock_skew_s", "burn_min_s",
                 "burn_max_s", "burn_deadline_s", "burn_wait_s", "probe_deadline_s", "report_max_age_s",
                 "rates_share", "siblings_rate_percent"):  # fmt: skip
        if getattr(policy, name) <= 0:
            raise PolicyError(f"gpugate_{name}: {getattr(policy, name)} is not above 0")
    for name in ("greens_to_return", "suspect_after"):
        if getattr(policy, name) < 1:
            raise PolicyError(f"gpugate_{name}: {getattr(policy, name)} is below 1")
    for name in ("burn_max_s", "burn_deadline_s", "probe_deadline_s"):
        if getattr(policy, name) > MOST_S:
            raise PolicyError(f"gpugate_{name}: {getattr(policy, name)} is above {MOST_S:g} s, a day")
    for name, most in (("power_share", 1), ("throttle_share", 1), ("memory_test_share", 1), ("rates_share", 1),
                       ("memory_marginal_percent", 100), ("memory_failed_percent", 100),
                       ("siblings_rate_percent", 100)):  # fmt: skip
        if not 0 <= getattr(policy, name) <= most:  # what nothing can exceed would check nothing
            raise PolicyError(f"gpugate_{name}: {getattr(policy, name)} is not between 0 and {most}")
    for domain, cap in policy.power_domains.items():
        for name, most in asdict(cap).items():
            if most is not None and most <= 0:
                raise PolicyError(
                    f"gpugate_power_domains: {domain}: {name}: {most} is not above 0: no node could ever burn"
                )
    for work, rate in policy.rates.items():
        if rate <= 0:
            raise PolicyError(f"gpugate_rates: {work}: {rate} is not above 0")
    if policy.burn_max_s < policy.burn_min_s:
        raise PolicyError("gpugate_burn_max_s is below gpugate_burn_min_s")
    if policy.power_limit_w is not None and policy.power_limit_w <= 0:
        raise PolicyError(f"gpugate_power_limit_w: {policy.power_limit_w} W is not above 0")
    for workload in policy.workloads:
        try:
            re.compile(workload.pattern)
        except re.error as error:
            raise PolicyError(f"gpugate_workloads: {workload.name}: pattern: {error}") from error
        if re.search(workload.pattern, ""):
            raise PolicyError(f"gpugate_workloads: {workload.name}: the pattern fits every process")
    for waiver in policy.waivers:
        for name in ("check", "host", "who", "why", "ticket"):
            if not getattr(waiver, name).strip():
                raise PolicyError(f"gpugate_waivers: {waiver.check} on {waiver.host}: {name} is empty")
    families = {check.split(".")[0] for check in CATALOGUE}
    for check in policy.checks:
        if check not in CATALOGUE and (check.split(".")[0] in families or "." not in check):
            close = difflib.get_close_matches(check, CATALOGUE, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise PolicyError(f"gpugate_checks: no check is called {check!r}{hint}")
        if not _CHECK.fullmatch(check):
            raise PolicyError(f"gpugate_checks: {check!r} cannot be the name of a check, FAMILY.NAME")
    if not policy.expected(policy.profile):
        raise PolicyError(f"gpugate_checks leaves no check for profile {policy.profile}")
