"""What can go wrong with a driver or a GPU, by name: each fault sets state keys, adds processes or injects rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import GpusimError, unknown

if TYPE_CHECKING:
    from .state import NodeState

STRANGER_PID = 424242  # a pid that no node of a test has


@dataclass(frozen=True)
class Fault:
    """A named fault. `keys` are set as they are when `per_gpu` is false, else below `gpu.N.`."""

    doc: str
    keys: Mapping[str, object] = field(default_factory=dict)
    per_gpu: bool = True
    more: Callable[[NodeState, int], None] | None = None


def apply(node: NodeState, name: str, gpu: int | None = None) -> None:
    """Apply the fault `name` to `node`, on GPU `gpu` (None: the first)."""
    if name not in FAULTS:
        raise unknown("fault", name, FAULTS)
    fault = FAULTS[name]
    target = 0 if gpu is None else gpu
    prefix = f"gpu.{target}." if fault.per_gpu else ""
    for key, value in fault.keys.items():
        node.set(prefix + key, value)
    if fault.more:
        fault.more(node, target)


def _scale(key: str, factor: float) -> Callable[[NodeState, int], None]:
    def more(node: NodeState, gpu: int) -> None:
        node.set(f"gpu.{gpu}.{key}", _number(node, gpu, key) * factor)

    return more


def _resistance_for(celsius: float) -> Callable[[NodeState, int], None]:
    """Foul the heat sink so that the maximum limit would settle at `celsius`, if nothing slowed the board down."""

    def more(node: NodeState, gpu: int) -> None:
        ambient, power = _number(node, gpu, "ambient_c"), _number(node, gpu, "power_max_w")
        node.set(f"gpu.{gpu}.thermal_resistance", (celsius - ambient) / power)

    return more


def _neighbours_for(celsius: float) -> Callable[[NodeState, int], None]:
    """Let the inlet rise by `celsius` when all other GPUs draw their maximum limit."""

    def more(node: NodeState, gpu: int) -> None:
        if node.gpus == 1:
            raise GpusimError("hot_neighbours: this node has one GPU, and nobody to heat it")
        others_w = (node.gpus - 1) * _number(node, gpu, "power_max_w")
        node.set(f"gpu.{gpu}.neighbour_c_per_w", celsius / others_w)

    return more


def _number(node: NodeState, gpu: int, key: str) -> float:
    return float(str(node.get(f"gpu.{gpu}.{key}")))


def _fill_memory(share: float) -> Callable[[NodeState, int], None]:
    def more(node: NodeState, gpu: int) -> None:
        usable = _number(node, gpu, "memory_total_mib") - _number(node, gpu, "memory_reserved_mib")
        node.add_process(gpu, STRANGER_PID, usable * share)

    return more


def _power_limit_lost(node: NodeState, gpu: int) -> None:
    node.set(f"gpu.{gpu}.power_limit_w", _number(node, gpu, "power_default_w"))


def _cap(node: NodeState, gpu: int) -> None:
    node.set(f"gpu.{gpu}.cap_w", _number(node, gpu, "power_max_w") * 0.6)


def _stranger(kind: str, **how: bool) -> Callable[[NodeState, int], None]:
    def more(node: NodeState, gpu: int) -> None:
        node.add_process(gpu, STRANGER_PID, 1024, kind, **how)

    return more


def _init_hangs(node: NodeState, _: int) -> None:
    for function in ("nvmlInit_v2", "nvmlInitWithFlags"):  # nvidia-ml-py calls the second
        node.inject(function, 999, hang=True)


def _temperature_hangs(node: NodeState, gpu: int) -> None:
    for function in ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"):
        node.inject(function, 999, gpu=gpu, hang=True)


def _gsp_timeout(node: NodeState, gpu: int) -> None:
    for function in ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetPowerUsage"):
        node.inject(function, 999, gpu=gpu, delay_s=45)


FAULTS: dict[str, Fault] = {
    # the driver
    "version_mismatch": Fault(
        "libraries upgraded, module not reloaded: NVML 18, CUDA 803",
        {"nvml_init_code": 18, "cuda_init_code": 803},
        per_gpu=False,
    ),
    "driver_not_loaded": Fault(
        "no kernel module: NVML 9, CUDA 100", {"nvml_init_code": 9, "cuda_init_code": 100}, per_gpu=False
    ),
    "old_cuda": Fault("the driver runs CUDA 11.8 only", {"cuda_version": 11080}, per_gpu=False),
    "cuda_mismatch": Fault(
        "libcuda of another version than the module: CUDA 803", {"cuda_init_code": 803}, per_gpu=False
    ),
    "cuda_compat_unsupported": Fault(
        "forward compatibility on hardware that cannot: CUDA 804", {"cuda_init_code": 804}, per_gpu=False
    ),
    "fabric_manager_down": Fault(
        "GPU not registered with the fabric: state in progress, CUDA 802",
        {"fabric_state": 2},
        more=lambda node, _: node.set("cuda_init_code", 802),
    ),
    "fabric_insufficient_resources": Fault(
        "registration completed with status 23, CUDA 802",
        {"fabric_state": 3, "fabric_status": 23},
        more=lambda node, _: node.set("cuda_init_code", 802),
    ),
    "nvml_hang": Fault("reading the temperature never returns", more=_temperature_hangs),
    "nvml_init_hang": Fault("nvmlInit never returns", per_gpu=False, more=_init_hangs),
    "gsp_timeout": Fault("calls block for 45 s, then answer 999; last Xid 119", {"last_xid": 119}, more=_gsp_timeout),
    # the GPU as a whole
    "gpu_lost": Fault("fallen off the bus: NVML 15, still counted, Xid 79", {"lost": True, "last_xid": 79}),
    "gpu_missing": Fault("fallen off the bus and out of NVML's list", {"lost": True, "listed": False, "last_xid": 79}),
    "gpu_lost_silently": Fault("NVML 15 without any Xid", {"lost": True}),
    "gpu_swapped": Fault(
        "another board in this slot",
        {"uuid": "GPU-5ea1ed00-0000-4000-8000-00000badcafe", "serial": "1699999999999"},
    ),
    "reset_required": Fault("NVML 16, recovery action 1", {"reset_required": True, "recovery_action": 1}),
    "drain_and_reset": Fault("recovery action 4", {"recovery_action": 4}),
    "inforom_corrupt": Fault("InfoROM checks answer 14", {"inforom_corrupt": True}),
    # errors
    "ecc_corrected": Fault(
        "many corrected errors", {"ecc_corrected_volatile": 5000, "ecc_corrected_aggregate": 5000, "last_xid": 92}
    ),
    "ecc_uncorrectable": Fault(
        "an uncorrectable error", {"ecc_uncorrected_volatile": 1, "ecc_uncorrected_aggregate": 1, "last_xid": 48}
    ),
    "ecc_old": Fault("uncorrectable errors of earlier boots (aggregate only)", {"ecc_uncorrected_aggregate": 7}),
    "ecc_contained": Fault(
        "contained error, Xid 94", {"ecc_uncorrected_volatile": 1, "ecc_uncorrected_aggregate": 1, "last_xid": 94}
    ),
    "ecc_uncontained": Fault(
        "uncontained error, Xid 95",
        {"ecc_uncorrected_volatile": 1, "ecc_uncorrected_aggregate": 1, "last_xid": 95, "recovery_action": 1},
    ),
    "ecc_under_load": Fault("uncorrectable errors gained only under load", {"ecc_uncorrected_per_s": 0.2}),
    "sram_errors": Fault("SRAM errors above the diagnostics' threshold", {"sram_parity": 5, "sram_secded": 3}),
    "remap_pending": Fault(
        "a row remap waits for a reset", {"remapped_uncorrected": 1, "remap_pending": True, "last_xid": 63}
    ),
    "remap_failed": Fault("a row remap failed", {"remapped_uncorrected": 8, "remap_failed": True, "last_xid": 64}),
    "page_retirement_pending": Fault(
        "a page waits for retirement", {"retired_pages_double": 1, "retired_pending": True}
    ),
    # links
    "pcie_gen_down": Fault("PCIe at generation 3 under load", {"pcie_gen_loaded": 3, "pcie_gen_idle": 1}),
    "pcie_width_down": Fault("PCIe with 8 lanes", {"pcie_width_loaded": 8}),
    "pcie_bad_slot": Fault("the slot can do generation 3 only", {"pcie_gen_slot": 3}),
    "pcie_replays": Fault("the replay counter grows under load", {"pcie_replays_per_s": 25}),
    "nvlink_down": Fault("one NVLink inactive", {"nvlink_state.3": 0, "last_xid": 74}),
    "nvlink_no_traffic": Fault("one NVLink active without traffic", {"nvlink_state.3": 3}),
    "nvlink_errors": Fault("CRC errors on one NVLink", {"nvlink_crc_errors.2": 4000, "nvlink_replays.2": 120}),
    # heat
    "fouled_heatsink": Fault("the heat sink takes far too little: slowdown within a burn", more=_resistance_for(112)),
    "warm_heatsink": Fault("hot, without slowing down in a short burn", more=_resistance_for(84)),
    "fan_failed": Fault("hot inlet and less flow", {"ambient_c": 45}, more=_scale("thermal_resistance", 1.35)),
    "fan_ramps": Fault(
        "fans that follow slowly: it gets hotter than where it settles", {"fan_count": 2, "fan_slew_percent_per_s": 0.5}
    ),
    "fan_stuck": Fault("fans that stay at 30%: slowdown at full power", {"fan_count": 2, "fan_max_percent": 30}),
    "hot_neighbours": Fault("the other GPUs' waste heat reaches its inlet: 18 C more", more=_neighbours_for(18)),
    "hot_memory": Fault("the memory is far above the core", {"memory_offset_c": 42}),
    "hot_inlet": Fault("inlet of 40 C", {"ambient_c": 40}),
    "sensor_stuck": Fault("the temperature never changes", {"sensor_stuck": True, "sensor_stuck_c": 30}),
    "sensor_noise": Fault("the temperature jumps by 8 K", {"sensor_noise_c": 8}),
    "power_noise": Fault("the power that is read jumps by 40 W", {"power_noise_w": 40}),
    # power and settings
    "power_brake": Fault("external power brake (reason 0x80)", {"power_brake": True}),
    "power_cap": Fault("capped from outside: requested right, enforced low", more=_cap),
    "power_limit_lost": Fault("the limit is the board's default again", more=_power_limit_lost),
    "power_set_ignored": Fault("setting a limit succeeds and changes nothing", {"ignore_power_set": True}),
    "persistence_off": Fault("persistence mode is off", {"persistence": False}),
    "persistence_set_ignored": Fault(
        "persistence mode is off; setting it succeeds and changes nothing",
        {"persistence": False, "ignore_persistence_set": True},
    ),
    "locked_clock": Fault("graphics clock locked to 900 MHz, without a reason", {"locked_sm_mhz": 900}),
    # modes
    "mig_on": Fault("MIG left on", {"mig_current": True, "mig_pending": True}),
    "compute_prohibited": Fault("compute mode prohibited", {"compute_mode": "prohibited"}),
    "compute_exclusive": Fault("compute mode exclusive", {"compute_mode": "exclusive_process"}),
    "ecc_off": Fault("ECC is off", {"ecc_current": False, "ecc_pending": False}),
    "ecc_pending": Fault("ECC will be off after a reboot", {"ecc_pending": False}),
    # answers
    "wrong_answers": Fault("the same tile is wrong in every launch", {"corruption": "always"}),
    "wrong_bit_once": Fault("one bit is wrong in one launch", {"corruption": "bit_once"}),
    "nan_answers": Fault("NaN in the floating-point chain", {"corruption": "nan"}),
    "wrong_after_warmup": Fault("wrong answers after some launches", {"corruption": "after_warmup"}),
    "wrong_under_heat": Fault("wrong answers above a temperature", {"corruption": "under_heat"}),
    "wrong_memory": Fault("one memory cell always reads as 1; nothing computed is wrong", {"corruption": "memory"}),
    "slow_gpu": Fault("12% slower than its siblings", {"speed_factor": 0.88}),
    # launches
    "launch_hangs": Fault("launches never end, from a process's 21st on", {"hang_launch": True}),
    "lost_under_load": Fault(
        "falls off the bus in mid-burn, with a process's 31st launch", {"lost_after_launches": 30}
    ),
    # memory and processes
    "memory_leaked": Fault("memory in use without any process", {"memory_leaked_mib": 3000}),
    "memory_leaking": Fault("memory in use grows", {"memory_leak_mib_per_s": 20}),
    "memory_full": Fault("97% of the memory used by one process", more=_fill_memory(0.97)),
    "stranger": Fault("a process that nobody expects", more=_stranger("compute")),
    "stranger_graphics": Fault("a graphics process", more=_stranger("graphics")),
    "stranger_mps": Fault("a client of MPS", more=_stranger("mps")),
    "stranger_invisible": Fault(
        "memory of a process of another pid namespace", more=_stranger("compute", invisible=True)
    ),
    "stranger_memory_unknown": Fault(
        "a process whose memory NVML cannot say", more=_stranger("compute", memory_unavailable=True)
    ),
    "busy_but_starved": Fault(
        "99% utilisation at a fifth of the power",
        {"load_utilization": 99, "load_power_share": 0.2},
        more=_stranger("compute"),
    ),
}
