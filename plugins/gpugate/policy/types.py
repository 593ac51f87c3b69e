"""Policy: what a healthy node of this kind is. One value a node, resolved from its Ansible variables.

Every field is set by the variable of the same name with `gpugate_` before it. Bounds that have a sensible
default carry it here; a required one has none, so that a forgotten line is an error and never a pass.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Literal

from pydantic import ConfigDict

from ..errors import PolicyError
from ..evidence.request import WORKS, BurnRequest, ProbeRequest, WorkloadPattern
from .boards import BOARDS, Board
from .catalogue import CATALOGUE, Level, Profile

Work = Literal["fma", "f16", "bf16", "s8", "stream"]

_GATES_OWN = ("greens_to_return", "report_max_age_s", "suspect_after")
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """One red check of one host that somebody answers for until a day: FAIL or ERROR becomes WAIVED.

    `check` and `host` are shell patterns; `expires` is the last day on which it holds (YYYY-MM-DD).
    """

    __pydantic_config__ = _STRICT

    check: str
    host: str
    who: str
    why: str
    ticket: str
    expires: date

    def covers(self, host: str, check: str, today: date) -> bool:
        """Whether this waiver is for that cell and still holds."""
        return fnmatch.fnmatchcase(host, self.host) and fnmatch.fnmatchcase(check, self.check) and today <= self.expires


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What should compute on this node: `pattern` (regular expression) finds its processes by command line;
    `gpus` are the NVML indices it must be on, empty for all."""

    __pydantic_config__ = _STRICT

    name: str
    pattern: str
    gpus: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PowerCap:
    """How much may burn at once in one power domain (a rack, row or shelf); None caps nothing."""

    __pydantic_config__ = _STRICT

    nodes: int | None = None
    gpus: int | None = None
    kw: float | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a node has to be. See docs/policy.md for every field, its unit and its default."""

    __pydantic_config__ = _STRICT

    board: str
    gpu_count: int
    driver_allowed: str
    cuda_versions: list[str]
    driver_denied: list[str] = field(default_factory=list)
    boards: dict[str, Board] = field(default_factory=dict)

    profile: Profile = "admission"
    level: Level = "observe"
    checks: dict[str, Level | Literal["absent"]] = field(default_factory=dict)
    waivers: list[Waiver] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)

    persistence: bool = True
    power_limit_w: float | None = None
    outside_cap: Literal["marginal", "fail"] = "marginal"
    compute_mode: Literal["default", "exclusive_process", "prohibited"] = "default"
    ecc: bool = True
    vbios_allowed: list[str] = field(default_factory=list)

    headroom_c: float = 5.0
    memory_headroom_c: float = 5.0
    throttle_share: float = 0.01
    power_share: float = 0.9
    siblings_c: float = 8.0
    rates: dict[Work, float] = field(default_factory=dict)
    rates_share: float = 0.9
    siblings_rate_percent: float = 8.0
    burn_work: Literal["mix", "fma", "f16", "bf16", "s8", "stream"] = "mix"
    burn_fatal: list[Work | Literal["memory"]] = field(default_factory=lambda: list(WORKS))  # type: ignore[arg-type]  # the same names
    burn_min_s: float = 30.0
    burn_max_s: float = 180.0
    burn_deadline_s: float = 300.0
    burn_abort_below_slowdown_c: float = 0.0
    probe_deadline_s: float = 120.0

    power_domains: dict[str, PowerCap] = field(default_factory=dict)
    burn_wait_s: float = 7200.0

    memory_marginal_percent: float = 90.0
    memory_failed_percent: float = 95.0
    memory_margin_mib: int = 0
    memory_return_mib: int = 64
    memory_test_share: float = 0.95
    memory_reserve_mib: int = 1024
    orphan_mib: int = 1024
    host_memory_ratio: float = 1.0
    host_shm_mib: int = 1024

    clock_skew_s: float = 5.0
    ecc_corrected_max: int = 1000
    ecc_corrected_gained_max: int = 10
    pcie_replays_per_s: float = 1.0
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlinks: int | None = None
    probe_builds: list[str] = field(default_factory=list)

    report_max_age_s: float = 86400.0
    greens_to_return: int = 2
    suspect_after: int = 3

    @cached_property
    def reference(self) -> Board:
        """The board's entry: the site's own under `boards`, else the shipped one."""
        return (BOARDS | self.boards)[self.board]

    @property
    def requested_power_w(self) -> float:
        """The power limit to set and to check, in W: the policy's, else the board's default."""
        return self.reference.power_limit_w if self.power_limit_w is None else self.power_limit_w

    @property
    def promised_bytes(self) -> int:
        """Memory of each GPU that jobs can count on beside what is in use: `memory_margin_mib`, or what is left at
        `memory_failed_percent` where that is more."""
        left = self.reference.memory_mib * (100 - self.memory_failed_percent) / 100
        return int(max(self.memory_margin_mib, left)) * 2**20

    def level_of(self, check: str) -> Level:
        """What the gate does about this check being red: observe, admit (keeps out) or evict (also removes)."""
        level = self.checks.get(check, self.level)
        if level == "absent":
            raise PolicyError(f"{check} is absent from this node's policy and has no level")
        return level

    def expected(self, profile: Profile) -> list[str]:
        """The check ids that this node owes under a profile, sorted; sites' own checks belong to every profile."""
        shipped = {check for check, profiles in CATALOGUE.items() if profile in profiles}
        site = {check for check in self.checks if check not in CATALOGUE}
        absent = {check for check, level in self.checks.items() if level == "absent"}
        if not self.reference.memory_temperature:
            absent.add("thermal.memory_headroom")
        if self.gpu_count == 1:
            absent |= {"compute.siblings", "thermal.siblings"}
        if self.memory_test_share == 0:
            absent.add("memory.pattern")
        if self.nvlinks == 0 or (self.nvlinks is None and self.reference.nvlinks == 0):
            absent.add("errors.nvlink")
        return sorted((shipped | site) - absent)

    def waiver_for(self, host: str, check: str, today: date) -> Waiver | None:
        """The live waiver of a cell, if there is one."""
        return next((waiver for waiver in self.waivers if waiver.covers(host, check, today)), None)

    def request(self, nonce: str, profile: Profile) -> ProbeRequest:
        """What the probe has to do on this node for a profile."""
        expected = self.expected(profile)
        burn = BurnRequest(
            min_s=self.burn_min_s,
            max_s=self.burn_max_s,
            headroom_c=self.headroom_c,
            abort_below_slowdown_c=self.burn_abort_below_slowdown_c,
            deadline_s=self.burn_deadline_s,
            work=self.burn_work,
            memory_share=self.memory_test_share,
            fatal=list(self.burn_fatal),
        )
        return ProbeRequest(
            nonce=nonce,
            profile=profile,
            launch="driver.kernel_launch" in expected,
            burn=burn if profile == "admission" else None,
            workloads=[WorkloadPattern(w.name, w.pattern) for w in self.workloads],
            deadline_s=self.probe_deadline_s,
            allocate_bytes=self.promised_bytes if "memory.allocatable" in expected else 0,
            reserve_bytes=self.memory_reserve_mib * 2**20,
        )

    @property
    def settings(self) -> dict[str, object]:
        """What provisioning sets on the node and re-applies at boot, as the probe's `settings` command reads it."""
        return {
            "device_id": self.reference.device_id,
            "gpu_count": self.gpu_count,
            "persistence": self.persistence,
            "power_limit_w": self.requested_power_w,
        }

    @property
    def settings_document(self) -> str:
        """The file that carries `settings` to the node, byte for byte; its sha256 is what a check compares."""
        return json.dumps(self.settings, indent=2, sort_keys=True) + "\n"

    @cached_property
    def settings_digest(self) -> str:
        """sha256 (hex) of `settings_document`."""
        return hashlib.sha256(self.settings_document.encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over all that policy resolves to for this node, so that edits elsewhere change nothing here.

        What only the gate looks at is no part of it: no report gets another meaning by that.
        """
        meaning = dataclasses.asdict(self) | {"reference": dataclasses.asdict(self.reference)}
        for name in _GATES_OWN:
            del meaning[name]
        plain = json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(plain.encode()).hexdigest()
