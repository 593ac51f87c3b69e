"""The fault drill's table: where each fault of the simulator is injected, and what has to catch it.

Three rounds on one fleet. A node carries several faults where they cannot be taken for one another: on different GPUs,
or in different checks.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGE, SMALL = 4, 2  # GPUs
NODES = {f"gpu{n}": LARGE if n < 7 or n == 18 else SMALL for n in range(19)}


@dataclass(frozen=True)
class Fault:
    """One fault of one node. `words` stand in the red lines of `check`, on `gpu` where the fault is one GPU's; `other`
    is a second check and its words, either of which may be first to meet a fault that shows itself once."""

    name: str
    check: str
    words: str
    gpu: int | None = None
    other: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Round:
    """What is injected at once and judged in one run; nodes that are not named are healthy."""

    profile: str
    faults: dict[str, list[Fault]]


ROUNDS = [
    Round("nightly", {
        "gpu1": [
            Fault("gpu_lost", "identity.gpu_count", "GPU is lost", 0),
            Fault("gpu_lost_silently", "identity.gpu_count", "GPU is lost", 1),
        ],
        "gpu2": [
            Fault("xid_79", "errors.xid", "Xid 79"),
            Fault("bus_lost_without_xid", "errors.xid", "has fallen off the bus"),
            Fault("gpu_missing", "identity.gpu_count", "GPUs that NVML counts is 3"),
        ],
        "gpu3": [
            Fault("ecc_corrected", "errors.ecc", "corrected errors is 5000", 0),
            Fault("ecc_uncorrectable", "errors.ecc", "uncorrectable errors is 1", 1),
            Fault("ecc_contained", "errors.xid", "Xid 94"),
            Fault("ecc_uncontained", "errors.recovery_action", "recovery action is 1", 3),
        ],
        "gpu4": [
            Fault("remap_pending", "errors.row_remap", "row remap pending", 0),
            Fault("remap_failed", "errors.row_remap", "row remap failed", 1),
            Fault("ecc_off", "identity.modes", "ECC is False", 2),
            Fault("ecc_pending", "identity.modes", "ECC after the next reset is False", 3),
        ],
        "gpu5": [
            Fault("mig_on", "identity.modes", "MIG is True", 0),
            Fault("compute_prohibited", "identity.modes", "compute mode is prohibited", 1),
            Fault("compute_exclusive", "identity.modes", "compute mode is exclusive_process", 2),
        ],
        "gpu6": [
            Fault("stranger", "placement.no_strangers", "(compute)", 0),
            Fault("stranger_graphics", "placement.no_strangers", "(graphics)", 1),
            Fault("stranger_mps", "placement.no_strangers", "(mps)", 2),
            Fault("stranger_memory_unknown", "placement.no_strangers", "(compute)", 3),
        ],
        "gpu7": [Fault("driver_not_loaded", "driver.loaded_matches_libraries", "nvidia is not loaded")],
        "gpu8": [Fault("version_mismatch", "driver.loaded_matches_libraries", "NVML library")],
        "gpu9": [Fault("nvml_hang", "identity.gpu_model", "GPU 1")],
        "gpu10": [Fault("nvml_init_hang", "identity.gpu_count", "opening NVML")],
        "gpu11": [Fault("gsp_timeout", "errors.xid", "Xid 119")],
    }),
    Round("nightly", {
        "gpu0": [
            Fault("old_cuda", "driver.runs_cuda", "runs 11.8"),
            Fault("nouveau_loaded", "driver.nouveau_absent", "nouveau"),
            Fault("upgrade_pending", "driver.loaded_matches_installed", "module on disk"),
            Fault("kmsg_rotated", "errors.xid", "does not reach back to boot"),
            Fault("host_memory_small", "memory.host", "host memory per GPU memory"),
            Fault("shm_small", "memory.host", "shared memory"),
            Fault("cpu_fallback", "placement.no_cpu_fallback", "inference"),
        ],
        "gpu1": [
            Fault("memory_full", "memory.margin", "memory in use is 97", 0),
            Fault("memory_leaked", "placement.no_orphans", "memory that no process owns", 1),
            Fault("stranger_invisible", "placement.no_orphans", "memory that no process owns", 2),
            Fault("busy_but_starved", "placement.no_strangers", "(compute)", 3),
        ],
        "gpu2": [
            Fault("persistence_off", "settings.persistence", "persistence mode is False", 0),
            Fault("power_limit_lost", "settings.power_limit", "requested limit is 700 W", 1),
            Fault("persistence_set_ignored", "settings.persistence", "persistence mode is False", 2),
        ],
        "gpu3": [
            Fault("reset_required", "errors.row_remap", "requires restart", 0),
            Fault("drain_and_reset", "errors.recovery_action", "recovery action is 4", 1),
            Fault("inforom_corrupt", "identity.inforom", "InfoROM valid is False", 2),
        ],
        "gpu4": [
            Fault("fabric_manager_down", "driver.kernel_launch", "802"),
            Fault("xid_unknown", "errors.xid", "Xid 998"),
        ],
        "gpu5": [
            Fault("fabric_insufficient_resources", "driver.kernel_launch", "802"),
            Fault("kmsg_unreadable", "errors.xid", "kernel_log could not be measured"),
        ],
        "gpu7": [Fault("module_mismatch", "driver.loaded_matches_libraries", "NVML library")],
        "gpu8": [Fault("library_missing", "driver.loaded_matches_libraries", "libnvidia-ml.so.1")],
        "gpu9": [Fault("library_empty", "driver.loaded_matches_libraries", "0 bytes")],
        "gpu10": [Fault("cuda_mismatch", "driver.kernel_launch", "803")],
        "gpu11": [Fault("cuda_compat_unsupported", "driver.kernel_launch", "804")],
        "gpu12": [Fault("probe_deleted", "evidence.whole", "has no probe")],
    }),
    Round("admission", {
        "gpu2": [
            Fault("pcie_gen_down", "errors.pcie", "PCIe generation under load is 3", 0),
            Fault("pcie_width_down", "errors.pcie", "PCIe width under load is 8", 1),
            Fault("nvlink_down", "errors.nvlink", "NVLinks up under load is 17", 2),
            Fault("nvlink_no_traffic", "errors.nvlink", "NVLinks up under load is 17", 3),
        ],
        "gpu3": [
            Fault("pcie_bad_slot", "errors.pcie", "PCIe generation under load is 3", 0),
            Fault("ecc_under_load", "errors.ecc", "gained under load", 1),
            Fault("power_brake", "thermal.no_throttle", "power brake", 2),
            Fault("memory_leaking", "memory.returns", "left behind", 3),
        ],
        "gpu4": [
            Fault("fouled_heatsink", "thermal.headroom", "predicted headroom", 0),
            Fault("hot_memory", "thermal.memory_headroom", "HBM headroom", 1),
        ],
        "gpu5": [
            Fault("warm_heatsink", "thermal.headroom", "headroom", 0),
            Fault("fan_failed", "thermal.headroom", "headroom", 1),
            Fault("fan_stuck", "thermal.headroom", "headroom", 2),
        ],
        "gpu6": [
            Fault("sensor_stuck", "thermal.headroom", "stuck", 0),
            Fault("locked_clock", "thermal.power_reached", "power", 2),
        ],
        "gpu7": [Fault("wrong_answers", "compute.known_answer", "wrong words", 1)],
        "gpu8": [Fault("wrong_bit_once", "driver.kernel_launch", "known answer is False", 1,
                       other=("compute.known_answer", "wrong words"))],
        "gpu9": [Fault("nan_answers", "compute.known_answer", "wrong words", 1)],
        "gpu10": [Fault("wrong_after_warmup", "compute.known_answer", "wrong words", 1)],
        "gpu11": [Fault("wrong_under_heat", "compute.known_answer", "wrong words", 1)],
        "gpu13": [Fault("wrong_memory", "memory.pattern", "words located that read back otherwise", 1)],
        "gpu14": [Fault("launch_hangs", "compute.known_answer", "has not come to its end", 1)],
        "gpu15": [Fault("lost_under_load", "identity.gpu_count", "GPU is lost", 1)],
        "gpu16": [
            Fault("slow_gpu", "compute.siblings", "below its siblings'", 0),
            Fault("pcie_replays", "errors.pcie", "PCIe replays a second under load", 1),
        ],
        "gpu12": [Fault("power_cap", "compute.siblings", "below its siblings'", 1)],
        "gpu18": [
            Fault("fan_ramps", "thermal.headroom", "could not be measured", 0),
            Fault("hot_inlet", "thermal.siblings", "less than the siblings' median", 2),
        ],
        "gpu17": [Fault("hot_neighbours", "thermal.headroom", "headroom", 0)],
    }),
]  # fmt: skip
WHERE_INJECTED = {  # GPUs of faults whose red line names a bus id, or none, instead of the GPU
    "xid_79": 0, "bus_lost_without_xid": 1, "gpu_missing": 3, "ecc_contained": 2, "nvml_hang": 1, "gsp_timeout": 1,
    "fabric_manager_down": 0, "fabric_insufficient_resources": 0, "xid_unknown": 1,
}  # fmt: skip

# Odd, and healthy all the same. They are on one node in the last round.
HEALTHY: dict[str, list[int | None]] = {
    "ecc_old": [0],
    "xid_13": [1],
    "power_noise": [0],
    "oom_kill": [None],
    "reboot_required": [None],
}
# What no check sees yet, and why. A check that comes to see one turns its node red here: then move the entry up.
UNSEEN = {
    "gpu_swapped": "the gate compares the report's UUIDs with the node's; no inventory lists them",
    "nvlink_errors": "link error counters need a rate over time, and policy has no bound for it",
    "page_retirement_pending": "retired pages (T4 and older) are not read; these boards remap rows",
    "power_set_ignored": "shows when a limit is set: provision.yml reads it back and fails",
    "sensor_noise": "judged is the card's margin, which on this board is the memory's and not the noisy sensor's",
    "sram_errors": "the SRAM counters are not read",
}
ODD_NODE, UNSEEN_NODE = "gpu0", "gpu1"
HOT_NODES = ("gpu5", "gpu17")  # run at the full 700 W, at which a warm heat sink and warm neighbours show
HANGS = "gpu14"  # where a launch never ends
