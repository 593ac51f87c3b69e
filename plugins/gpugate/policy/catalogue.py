"""Which checks gpugate ships, and which profile asks for each.

This list, not the files that a run happens to collect, is what the expected matrix is made from: a check that
was deleted, renamed or not collected is MISSING, not forgotten.
"""

from __future__ import annotations

from typing import Literal

Profile = Literal["admission", "nightly", "quick"]
Level = Literal["observe", "admit", "evict"]

_ALWAYS: tuple[Profile, ...] = ("admission", "nightly", "quick")
_LAUNCH: tuple[Profile, ...] = ("admission", "nightly")
_BURN: tuple[Profile, ...] = ("admission",)

CATALOGUE: dict[str, tuple[Profile, ...]] = {
    "compute.known_answer": _BURN,
    "compute.siblings": _BURN,
    "compute.throughput": _BURN,
    "driver.kernel_launch": _LAUNCH,
    "driver.loaded_matches_installed": _ALWAYS,
    "driver.loaded_matches_libraries": _ALWAYS,
    "driver.nouveau_absent": _ALWAYS,
    "driver.runs_cuda": _ALWAYS,
    "driver.supports_gpu": _ALWAYS,
    "driver.version_allowed": _ALWAYS,
    "errors.ecc": _ALWAYS,
    "errors.pcie": _BURN,
    "errors.nvlink": _BURN,
    "errors.recovery_action": _ALWAYS,
    "errors.row_remap": _ALWAYS,
    "errors.xid": _ALWAYS,
    "evidence.fresh": _ALWAYS,
    "evidence.whole": _ALWAYS,
    "host.clock": _ALWAYS,
    "identity.firmware": _ALWAYS,
    "identity.gpu_count": _ALWAYS,
    "identity.gpu_model": _ALWAYS,
    "identity.inforom": _ALWAYS,
    "identity.modes": _ALWAYS,
    "memory.allocatable": _LAUNCH,
    "memory.host": _ALWAYS,
    "memory.margin": _ALWAYS,
    "memory.pattern": _BURN,
    "memory.returns": _BURN,
    "placement.expected_workloads": _ALWAYS,
    "placement.no_cpu_fallback": _ALWAYS,
    "placement.no_orphans": _ALWAYS,
    "placement.no_strangers": _ALWAYS,
    "settings.persistence": _ALWAYS,
    "settings.power_limit": _ALWAYS,
    "settings.survive_reboot": _ALWAYS,
    "thermal.headroom": _BURN,
    "thermal.memory_headroom": _BURN,
    "thermal.no_throttle": _BURN,
    "thermal.power_reached": _BURN,
    "thermal.siblings": _BURN,
}
