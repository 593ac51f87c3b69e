"""The evidence document: everything that a probe measured on a node, or why it could not.

Units stand in the names (`_w` watts, `_c` degrees Celsius, `_mib`, `_bytes`, `_mhz`, `_s` seconds). The
probe fills these records, `codec` carries them, checks read them. Nothing here judges.
"""

from __future__ import annotations

from dataclasses import dataclass

from .facts import Facts, Reading

SCHEMA = 1


@dataclass(frozen=True, repr=False)
class ProbeBuild(Facts):
    """Which probe measured: version, sha256 of its zipapp (hex), and the node's Python version."""

    version: str
    digest: Reading[str]
    python: str


@dataclass(frozen=True, repr=False)
class Host(Facts):
    """The node itself, from procfs and sysfs under the probe's root.

    `initial_pid_namespace`: whether the probe saw every process of the node (NVML hides the others).
    `clock_unix_s`: the node's wall clock when the probe started.
    """

    hostname: Reading[str]
    machine_id: Reading[str]
    boot_id: Reading[str]
    kernel_release: Reading[str]
    uptime_s: Reading[float]
    clock_unix_s: float
    privileged: bool
    initial_pid_namespace: Reading[bool]
    memory_total_bytes: Reading[int]
    memory_available_bytes: Reading[int]
    shm_bytes: Reading[int]


@dataclass(frozen=True, repr=False)
class Library(Facts):
    """A driver library as the loader finds it: its path with links resolved, and the version that its name says."""

    path: str
    version: Reading[str]
    size_bytes: Reading[int]


@dataclass(frozen=True, repr=False)
class PersistenceDaemon(Facts):
    """nvidia-persistenced as the service manager knows it.

    `command_line` is the unit's ExecStart: Ubuntu ships it with --no-persistence-mode.
    """

    installed: Reading[bool]
    enabled: Reading[bool]
    active: Reading[bool]
    command_line: Reading[str]


@dataclass(frozen=True, repr=False)
class BootUnit(Facts):
    """What re-applies settings at boot: gpugate's own unit, and the digest of the settings that it carries."""

    installed: Reading[bool]
    enabled: Reading[bool]
    settings_digest: Reading[str]


@dataclass(frozen=True, repr=False)
class Driver(Facts):
    """Kernel module, libraries and CUDA, each from its own source.

    `module_version` is the running module's (/sys/module/nvidia/version), `installed_module_version` that of the
    file which the next load would take, `nvml_version` the driver version that NVML answers, `cuda_version` what a
    fresh process hears from cuDriverGetVersion (13000 is 13.0), `gpu_count` NVML's device count.
    """

    module_version: Reading[str]
    module_flavour: Reading[str]
    installed_module_version: Reading[str]
    nouveau_loaded: Reading[bool]
    nvml_library: Reading[Library]
    nvml_version: Reading[str]
    libcuda: Reading[Library]
    cuda_version: Reading[int]
    gpu_count: Reading[int]
    persistence_daemon: PersistenceDaemon
    boot_unit: BootUnit


@dataclass(frozen=True, repr=False)
class PciGpu(Facts):
    """A display device of vendor 10de (class 0300 or 0302) that sysfs lists, whatever the driver thinks of it."""

    bus_id: str
    device_id: Reading[str]
    numa_node: Reading[int]


@dataclass(frozen=True, repr=False)
class Modes(Facts):
    """`compute_mode` is one of default, exclusive_thread, prohibited, exclusive_process (nvmlComputeMode_t)."""

    persistence: Reading[bool]
    mig_current: Reading[bool]
    mig_pending: Reading[bool]
    ecc_current: Reading[bool]
    ecc_pending: Reading[bool]
    compute_mode: Reading[str]


@dataclass(frozen=True, repr=False)
class Power(Facts):
    """`limit_w` is what was requested of the card, `enforced_limit_w` what holds (lower: a cap from outside)."""

    draw_w: Reading[float]
    limit_w: Reading[float]
    enforced_limit_w: Reading[float]
    default_limit_w: Reading[float]
    min_limit_w: Reading[float]
    max_limit_w: Reading[float]


@dataclass(frozen=True, repr=False)
class Thermal(Facts):
    """Temperatures. `below_slowdown_c` is the one scale for judging: degrees below software slowdown, from the
    card's margin where it gives one, else GPU_MAX minus temperature; `scale` says which (margin, gpu_max)."""

    temperature_c: Reading[float]
    below_slowdown_c: Reading[float]
    scale: Reading[str]
    memory_temperature_c: Reading[float]
    memory_max_c: Reading[float]


@dataclass(frozen=True, repr=False)
class Clocks(Facts):
    """`event_reasons` is the bit mask of nvmlClocksEventReasons as the driver gives it."""

    sm_mhz: Reading[int]
    memory_mhz: Reading[int]
    max_sm_mhz: Reading[int]
    event_reasons: Reading[int]


@dataclass(frozen=True, repr=False)
class Memory(Facts):
    """Device memory in bytes; `used` excludes `reserved` (nvmlMemory_v2)."""

    total_bytes: Reading[int]
    reserved_bytes: Reading[int]
    used_bytes: Reading[int]
    free_bytes: Reading[int]


@dataclass(frozen=True, repr=False)
class Process(Facts):
    """A process in the driver's tables; `kind` is compute, graphics or mps."""

    pid: int
    kind: str
    memory_bytes: Reading[int]
    user: Reading[str]
    command: Reading[str]
    unit: Reading[str]


@dataclass(frozen=True, repr=False)
class Ecc(Facts):
    """Error counts; volatile ones restart when the driver loads, aggregate ones live in the InfoROM."""

    volatile_corrected: Reading[int]
    volatile_uncorrected: Reading[int]
    aggregate_corrected: Reading[int]
    aggregate_uncorrected: Reading[int]


@dataclass(frozen=True, repr=False)
class RowRemap(Facts):
    """Row remapper (Ampere and later): rows remapped for each cause, whether one waits for a reset, or failed."""

    corrected_rows: Reading[int]
    uncorrected_rows: Reading[int]
    pending: Reading[bool]
    failed: Reading[bool]


@dataclass(frozen=True, repr=False)
class Pcie(Facts):
    """The link as it is now; idle GPUs shift down on purpose."""

    generation: Reading[int]
    width: Reading[int]
    replays: Reading[int]


@dataclass(frozen=True, repr=False)
class Gpu(Facts):
    """One device of NVML's list. A GPU that the driver has lost is still listed, with its gaps.

    Ids as the kernel writes them: `bus_id` 0000:18:00.0 (as in `PciGpu`), `device_id` and `subsystem_id` 10de:2330.
    `recovery_action` is field 230's number; `answered_by` names the function that answered where there are several.
    """

    index: int
    uuid: Reading[str]
    serial: Reading[str]
    bus_id: Reading[str]
    name: Reading[str]
    device_id: Reading[str]
    subsystem_id: Reading[str]
    compute_capability: Reading[str]
    vbios: Reading[str]
    gsp_firmware: Reading[str]
    inforom_valid: Reading[bool]
    recovery_action: Reading[int]
    utilisation_percent: Reading[int]
    modes: Modes
    power: Power
    thermal: Thermal
    clocks: Clocks
    memory: Memory
    ecc: Ecc
    row_remap: RowRemap
    pcie: Pcie
    nvlink_states: Reading[list[int]]
    processes: Reading[list[Process]]
    answered_by: dict[str, str]


@dataclass(frozen=True, repr=False)
class Launch(Facts):
    """Whether a fresh process ran the known-answer kernel on a GPU (by UUID) and got the known answer."""

    uuid: str
    correct: Reading[bool]


@dataclass(frozen=True, repr=False)
class Workload(Facts):
    """A workload that policy names, as the host sees it: its processes, found by command line."""

    name: str
    processes: Reading[list[HostProcess]]


@dataclass(frozen=True, repr=False)
class HostProcess(Facts):
    """A process of the host whose command line matched a workload's pattern."""

    pid: int
    command: str
    user: Reading[str]


@dataclass(frozen=True, repr=False)
class KernelLog(Facts):
    """The driver's own lines of the kernel log since boot, oldest first.

    `complete` says whether the log still reaches back to boot; `truncated` whether lines were left out for size.
    """

    source: str
    complete: Reading[bool]
    truncated: bool
    lines: list[str]


@dataclass(frozen=True, repr=False)
class SteadyState(Facts):
    """First-order fit of a burn: where a value will settle, with its 95% confidence interval.

    `value`, `low`, `high` in the unit of what was fitted; `tau_s` seconds; `rms` the residual's root mean square.
    """

    value: float
    low: float
    high: float
    tau_s: float
    rms: float


@dataclass(frozen=True, repr=False)
class Allocation(Facts):
    """Whether memory that policy promises to jobs can be had in one piece: allocated, written and read back.

    `free_bytes` before it was tried. `correct` is a Gap where it was not tried or refused.
    """

    uuid: str
    asked_bytes: int
    free_bytes: Reading[int]
    correct: Reading[bool]


@dataclass(frozen=True, repr=False)
class Mismatch(Facts):
    """One wrong 32-bit word, where the device itself found it.

    `work` is what was computed: fma, f16, bf16, s8, stream, or memory for the memory test. `sm` is the multiprocessor;
    `block` and `thread` (in its block) the place in the grid; `launch` counts from 1, `round` within the launch from 0;
    `word` is the word's number among the thread's results (stream and memory: in the tested piece of memory). The bits
    that differ are `expected` xor `found`.
    """

    work: str
    sm: int
    block: int
    thread: int
    launch: int
    round: int
    word: int
    expected: int
    found: int


@dataclass(frozen=True, repr=False)
class MemoryTest(Facts):
    """Patterns written to a GPU's memory and read back: how much of what was free, in how many pieces, how fast.

    `gb_per_s`: bytes written and read, in 10^9, over the device time that it took.
    """

    free_bytes: int
    tested_bytes: int
    pieces: int
    patterns: list[str]
    mismatches: int
    gb_per_s: Reading[float]


@dataclass(frozen=True, repr=False)
class BurnGpu(Facts):
    """What the burn showed on one GPU.

    `ended`: settled, maximum, or aborted; `reason` says why in words. `below_slowdown_c` is the predicted steady
    headroom on the one scale of `Thermal`, at the power that the burn draws unthrottled; `memory_c` the predicted HBM
    temperature. Shares are of the burn's time, from 0 to 1, by reason: hw_slowdown, hw_thermal, power_brake,
    sw_thermal, sw_power_cap. Means are over the plateau (the last half). `resistance_c_per_w` is (steady - idle
    temperature) / mean power above idle.

    `rates` by work (see `Mismatch`), each measured alone once the card was hot: tera-operations a second of fma, f16,
    bf16, s8, 10^9 bytes a second of stream. `mismatches` counts wrong words of burn and memory test together, `wrong`
    holds the first of them. Counters `..._gained` are of the time from before the load until after the memory test.
    """

    uuid: str
    ended: str
    reason: str
    seconds: float
    samples: int
    samples_per_s: Reading[float]
    threads_launched: int
    threads_completed: Reading[int]
    mismatches: Reading[int]
    wrong: Reading[list[Mismatch]]
    rates: Reading[dict[str, float]]
    memory_test: Reading[MemoryTest]
    power_w: Reading[float]
    sm_mhz: Reading[float]
    max_temperature_c: Reading[float]
    max_fan_percent: Reading[float]
    below_slowdown_c: Reading[SteadyState]
    memory_c: Reading[SteadyState]
    resistance_c_per_w: Reading[float]
    event_shares: Reading[dict[str, float]]
    pcie_generation: Reading[int]
    pcie_width: Reading[int]
    pcie_replays_gained: Reading[int]
    nvlink_states: Reading[list[int]]
    ecc_corrected_gained: Reading[int]
    ecc_uncorrected_gained: Reading[int]
    rows_remapped_gained: Reading[int]
    used_before_bytes: Reading[int]
    used_after_bytes: Reading[int]


@dataclass(frozen=True, repr=False)
class Samples(Facts):
    """Where the burn's time series lie on the node: a gzip JSON file named by the sha256 of its content."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, repr=False)
class Burn(Facts):
    """The burn-in of all GPUs of the node together. `gpus` is in the order of `Evidence.gpus`.

    `work` is what the kernel did (mix, or one work alone). `xids_gained` counts the Xid lines that the kernel log
    gained meanwhile; `sampler_core_share` is the processor time of all sampling over wall time (0.01 is 1% of a core).
    """

    id: str
    started_unix_s: float
    work: str
    seconds: float
    gpus: list[BurnGpu]
    samples: Reading[Samples]
    sampler_core_share: Reading[float]
    xids_gained: Reading[int]


@dataclass(frozen=True, repr=False)
class Evidence(Facts):
    """The document. `nonce` repeats the request's, so that a document answers exactly one request."""

    schema: int
    nonce: str
    profile: str
    probe: ProbeBuild
    started_unix_s: float
    duration_s: float
    host: Host
    driver: Driver
    pci_gpus: Reading[list[PciGpu]]
    gpus: Reading[list[Gpu]]
    launches: Reading[list[Launch]]
    allocations: Reading[list[Allocation]]
    workloads: Reading[list[Workload]]
    kernel_log: Reading[KernelLog]
    burn: Reading[Burn]
