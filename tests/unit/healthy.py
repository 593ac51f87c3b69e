"""Evidence of a healthy simulated-on-paper node, and ways to spoil it: the raw material of the unit tests.

`healthy()` is what the probe of an idle eight-GPU H100 node says after a good burn; `with_fact(evidence, path, value)`
is the same document with one fact replaced ("gpus.3.power.limit_w"), by a value or a Gap.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from gpugate import __version__
from gpugate.evidence import types as t
from gpugate.evidence.facts import Facts, Gap
from gpugate.policy import Policy, policy_from_variables

GIB = 2**30
DRIVER = "580.95.05"
NONCE = "0123456789abcdef"
NOW = 1_790_000_000.0

VARIABLES: dict[str, Any] = {
    "gpugate_board": "H100-SXM5-80GB",
    "gpugate_gpu_count": 8,
    "gpugate_driver_allowed": ">=550.90,<600",
    "gpugate_cuda_versions": ["12.4"],
    "gpugate_power_limit_w": 650.0,
    "gpugate_rates": {"fma": 50, "f16": 600, "bf16": 600, "s8": 1200, "stream": 2900},
    "gpugate_level": "admit",
}


def policy(**changes: Any) -> Policy:
    """The policy that the healthy node fulfils; changes are variables without their prefix."""
    return policy_from_variables("gpu0", VARIABLES | {f"gpugate_{key}": value for key, value in changes.items()})


def healthy(host: str = "gpu0", gpus: int = 8) -> t.Evidence:
    """A document that every shipped check passes under `policy()`, but for survive_reboot's digest being its own."""
    return t.Evidence(
        schema=1,
        nonce=NONCE,
        profile="admission",
        probe=t.ProbeBuild(__version__, "ab" * 32, "3.11.7"),
        started_unix_s=NOW,
        duration_s=42.0,
        host=t.Host(
            hostname=host, machine_id="cd" * 16, boot_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, host)),
            kernel_release="5.15.0-119-generic", uptime_s=86400.0, clock_unix_s=NOW, privileged=True,
            initial_pid_namespace=True, memory_total_bytes=2048 * GIB, memory_available_bytes=2000 * GIB,
            shm_bytes=1024 * GIB,
        ),
        driver=_driver(gpus),
        pci_gpus=[t.PciGpu(f"0000:{16 + n:02x}:00.0", "10de:2330", 0) for n in range(gpus)],
        gpus=[_gpu(host, n) for n in range(gpus)],
        launches=[t.Launch(_uuid(host, n), True) for n in range(gpus)],
        allocations=[t.Allocation(_uuid(host, n), policy().promised_bytes, 80 * GIB, True) for n in range(gpus)],
        workloads=[],
        kernel_log=t.KernelLog("journalctl -k -b", True, False, ["NVRM: loading NVIDIA UNIX x86_64 Kernel Module"]),
        burn=t.Burn(
            "20260101T000000Z-abcdef", NOW - 60, "mix", 35.0, [_burnt(host, n) for n in range(gpus)],
            t.Samples("/var/lib/gpugate/samples/x.json.gz", "0" * 64, 4096), 0.004, 0,
        ),
    )  # fmt: skip


def with_fact(evidence: t.Evidence, path: str, value: Any) -> t.Evidence:
    """The same evidence with one fact replaced; lists are indexed by number, `*` changes every item."""
    changed = _replace(evidence, path.split("."), value)
    assert isinstance(changed, t.Evidence)
    return changed


def _replace(record: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(record, list):
        return [_replace(item, rest, value) if head in ("*", str(n)) else item for n, item in enumerate(record)]
    if isinstance(record, dict):
        return record | {head: _replace(record[head], rest, value)}
    assert isinstance(record, Facts)
    fields = {f.name: record.gap(f.name) or getattr(record, f.name) for f in dataclasses.fields(record)}  # type: ignore[arg-type]  # every record is a dataclass
    assert head in fields, f"{type(record).__name__} has no {head}"
    return type(record)(**fields | {head: _replace(fields[head], rest, value)})


def _uuid(host: str, n: int) -> str:
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{host}-{n}')}"


def _driver(gpus: int) -> t.Driver:
    folder = "/usr/lib/x86_64-linux-gnu"
    return t.Driver(
        module_version=DRIVER, module_flavour="open", installed_module_version=DRIVER, nouveau_loaded=False,
        nvml_library=t.Library(f"{folder}/libnvidia-ml.so.{DRIVER}", DRIVER, 2_000_000), nvml_version=DRIVER,
        libcuda=t.Library(f"{folder}/libcuda.so.{DRIVER}", DRIVER, 90_000_000), cuda_version=13000, gpu_count=gpus,
        persistence_daemon=t.PersistenceDaemon(True, True, True, "/usr/bin/nvidia-persistenced --verbose"),
        boot_unit=t.BootUnit(True, True, policy().settings_digest),
    )  # fmt: skip


def _gpu(host: str, n: int) -> t.Gpu:
    return t.Gpu(
        index=n, uuid=_uuid(host, n), serial=f"165{n:010d}", bus_id=f"00000000:{16 + n:02x}:00.0",
        name="NVIDIA H100 80GB HBM3", device_id="10de:2330", subsystem_id="10de:16c1", compute_capability="9.0",
        vbios="96.00.74.00.1f", gsp_firmware=DRIVER, inforom_valid=True, recovery_action=0, utilisation_percent=0,
        modes=t.Modes(True, False, False, True, True, "default"),
        power=t.Power(70.0, 650.0, 650.0, 700.0, 200.0, 700.0),
        thermal=t.Thermal(31.0, 56.0, "margin", 40.0, 95.0),
        clocks=t.Clocks(345, 2619, 1980, 1),
        memory=t.Memory(81559 * 2**20, 480 * 2**20, 1 * 2**20, 81078 * 2**20),
        ecc=t.Ecc(0, 0, 0, 0), row_remap=t.RowRemap(0, 0, False, False), pcie=t.Pcie(1, 16, 0),
        nvlink_states=[1] * 18, processes=[], answered_by={"memory": "nvmlDeviceGetMemoryInfo_v2"},
    )  # fmt: skip


def _burnt(host: str, n: int) -> t.BurnGpu:
    return t.BurnGpu(
        uuid=_uuid(host, n), ended="settled", reason="the prediction is certain enough", seconds=35.0, samples=385,
        samples_per_s=11.0, threads_launched=10_000_000, threads_completed=10_000_000, mismatches=0, wrong=[],
        rates={"fma": 51.0, "f16": 610.0, "bf16": 600.0, "s8": 1200.0, "stream": 2900.0},
        memory_test=t.MemoryTest(
            80 * GIB, 78 * GIB, 1, ["inversion up", "inversion down", "address", "random"], 0, 2800.0
        ),
        power_w=640.0, sm_mhz=1750.0, max_temperature_c=62.0,
        max_fan_percent=Gap("nvmlDeviceGetFanSpeed answered 3 (Not Supported)", 3),  # type: ignore[arg-type]  # a Reading
        below_slowdown_c=t.SteadyState(21.0, 20.0, 22.0, 15.0, 0.4),
        memory_c=t.SteadyState(75.0, 74.0, 76.0, 15.0, 0.4), resistance_c_per_w=0.06,
        event_shares={"hw_slowdown": 0.0, "hw_thermal": 0.0, "power_brake": 0.0, "sw_thermal": 0.0,
                      "sw_power_cap": 0.9},
        pcie_generation=5, pcie_width=16, pcie_replays_gained=0, nvlink_states=[1] * 18, ecc_corrected_gained=0,
        ecc_uncorrected_gained=0, rows_remapped_gained=0, used_before_bytes=2**20, used_after_bytes=2**20,
    )  # fmt: skip
