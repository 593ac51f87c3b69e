"""What a run was judged by, as digests: the files that hold its checks, the matrix that was owed, the waivers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ..policy import Policy, Profile


@dataclass(frozen=True)
class Basis:
    """`checks` has the sha256 (hex) of each file that held a check or a fixture, by its path in the project;
    `expected_sha256` is `matrix_digest` of what the hosts owed, `waivers_sha256` that of policy's waivers by host."""

    checks: dict[str, str]
    expected_sha256: str
    waivers_sha256: str


def basis_of(policies: Mapping[str, Policy], profile: Profile, checks: Mapping[str, str]) -> Basis:
    """The basis of a run over hosts with these policies."""
    waivers = {host: [asdict(waiver) for waiver in policy.waivers] for host, policy in policies.items()}
    expected = {host: policy.expected(profile) for host, policy in policies.items()}
    return Basis(dict(sorted(checks.items())), matrix_digest(expected), _digest(waivers))


def matrix_digest(expected: Mapping[str, Iterable[str]]) -> str:
    """sha256 (hex) of a matrix of hosts x checks; a host that owes nothing is not in it."""
    return _digest({host: owed for host, checks in expected.items() if (owed := sorted(checks))})


def _digest(meaning: object) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
